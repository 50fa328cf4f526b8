package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// controller asks one broker after the other who the active controller is: DescribeQuorum, version
// 2, by hand, because no client library has it.
func controller(bootstrap string) (int32, error) {
	var last error
	for _, address := range strings.Split(bootstrap, ",") {
		id, err := describeQuorum(address)
		if err == nil && id >= 0 {
			return id, nil
		}
		if last = err; err == nil {
			last = fmt.Errorf("%s knows no controller", address)
		}
	}
	return -1, last
}

func describeQuorum(address string) (int32, error) {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return -1, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Second))
	const topic = "__cluster_metadata"
	request := []byte{0, 55, 0, 2, 0, 0, 0, 1, 0xff, 0xff, 0} // key, version, correlation, no client id, no tags
	request = append(request, 2, byte(len(topic)+1))
	request = append(request, topic...)
	request = append(request, 2, 0, 0, 0, 0, 0, 0, 0) // one partition, 0; three sets of tags
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...)
	if _, err := conn.Write(frame); err != nil {
		return -1, err
	}
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return -1, err
	}
	answer := make([]byte, min(binary.BigEndian.Uint32(size[:]), 1<<20))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return -1, err
	}
	// Correlation, tags; error and message; one topic, its name; one partition, its index, error and
	// message, leader. A message is shorter than 127 bytes or absent.
	at, unreadable := 0, fmt.Errorf("%s: DescribeQuorum: %x", address, answer)
	take := func(count int) []byte {
		if at += count; at > len(answer) {
			return make([]byte, count)
		}
		return answer[at-count : at]
	}
	message := func() { take(max(int(take(1)[0])-1, 0)) }
	take(4 + 1)
	failed := take(2)
	message()
	take(1 + 1 + len(topic) + 1 + 4)
	refused := take(2)
	message()
	leader := int32(binary.BigEndian.Uint32(take(4)))
	if at > len(answer) || failed[0]|failed[1]|refused[0]|refused[1] != 0 {
		return -1, unreadable
	}
	return leader, nil
}
