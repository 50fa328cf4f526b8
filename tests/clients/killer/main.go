// killer: what acks=all promises while brokers die.
//
// Two producers, one idempotent and one plain (one request in flight, so that a retry cannot
// overtake), write numbered records to three partitions of replication factor 3. Round after round
// the leader of one partition is killed with SIGKILL, and then one of its followers; the cluster
// brings each back. After each kill produce must resume within the limit, and the broker must come
// back into every ISR. In the end all partitions are read from the start:
//   - each acknowledged record is there, at the offset that the acknowledgement named;
//   - the records of a producer in a partition come in the order in which they were sent;
//   - nothing is there twice, unless its producer is plain.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"ottla.dev/tests/clients/claims"
)

const (
	partitions = 3
	perSecond  = 500 // records per lane
	healLimit  = 60 * time.Second
	// Longer than any session timeout in use here; but a broker whose loss nobody notices within the
	// limit of a pause is back.
	noticeLimit = 8 * time.Second
)

// A lane is one producer's records in one partition.
type lane struct {
	producer  string
	partition int32

	mu      sync.Mutex
	acked   map[int]kafka.Offset
	last    time.Time     // when the last acknowledgement came
	longest time.Duration // between two acknowledgements, since mark
	refused map[string]int
	fatal   func() error // why the client library has given up, if it has
}

func (l *lane) acknowledge(number int, offset kafka.Offset, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.longest = max(l.longest, now.Sub(l.last))
	l.last = now
	l.acked[number] = offset
}

// mark starts a new measure of the longest gap.
func (l *lane) mark(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last, l.longest = now, 0
}

// gap is the longest time without an acknowledgement since mark, the present one included.
func (l *lane) gap(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.longest, now.Sub(l.last))
}

type run struct {
	bootstrap, topic string
	kill             []string
	notice           time.Duration
	admin            *kafka.AdminClient
	lanes            []*lane
}

func main() {
	bootstrap := flag.String("bootstrap", "127.0.0.1:9092", "addresses of brokers")
	rounds := flag.Int("rounds", 10, "how often a leader, and then a follower, is killed")
	limit := flag.Duration("limit", 3*time.Second, "the longest pause in acknowledgements after a kill")
	kill := flag.String("kill", "", "command that kills the broker whose id is appended")
	flag.Parse()
	r := &run{bootstrap: *bootstrap, topic: claims.Topic("kill"), kill: strings.Fields(*kill), notice: min(noticeLimit, *limit)}
	if err := r.all(*rounds, *limit); err != nil {
		fmt.Printf("FAIL killer: %v\n", err)
		os.Exit(1)
	}
}

func (r *run) all(rounds int, limit time.Duration) error {
	var err error
	r.admin, err = kafka.NewAdminClient(&kafka.ConfigMap{"bootstrap.servers": r.bootstrap, "socket.timeout.ms": 10000})
	if err != nil {
		return err
	}
	defer r.admin.Close()
	if err := r.create(); err != nil {
		return err
	}
	stop := make(chan struct{})
	var producing sync.WaitGroup
	for _, idempotent := range []bool{true, false} {
		if err := r.produce(idempotent, stop, &producing); err != nil {
			return err
		}
	}
	failed := r.rounds(rounds, limit)
	close(stop)
	producing.Wait()
	if err := r.verify(); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d kills did not heal in time", failed)
	}
	return nil
}

func (r *run) create() error {
	made, err := r.admin.CreateTopics(context.Background(), []kafka.TopicSpecification{{
		Topic: r.topic, NumPartitions: partitions, ReplicationFactor: 3, Config: map[string]string{"min.insync.replicas": "2"},
	}}, kafka.SetAdminOperationTimeout(20*time.Second))
	if err != nil {
		return err
	}
	if made[0].Error.Code() != kafka.ErrNoError {
		return fmt.Errorf("create: %w", made[0].Error)
	}
	return r.healed(time.Now())
}

// produce starts one producer, which writes to all partitions until stop is closed.
func (r *run) produce(idempotent bool, stop chan struct{}, done *sync.WaitGroup) error {
	config := kafka.ConfigMap{
		"bootstrap.servers": r.bootstrap, "acks": "all", "linger.ms": 2, "enable.idempotence": idempotent,
		"message.timeout.ms": 120000, "retry.backoff.ms": 50, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200,
		"topic.metadata.refresh.fast.interval.ms": 50, "request.timeout.ms": 3000, "log_level": 0,
	}
	name := "idempotent"
	if !idempotent {
		name = "plain"
		config["max.in.flight.requests.per.connection"] = 1
	}
	p, err := kafka.NewProducer(&config)
	if err != nil {
		return err
	}
	lanes := make([]*lane, partitions)
	for i := range lanes {
		lanes[i] = &lane{producer: name, partition: int32(i), acked: map[int]kafka.Offset{}, last: time.Now(), refused: map[string]int{}, fatal: p.GetFatalError}
	}
	r.lanes = append(r.lanes, lanes...)
	done.Add(2)
	go func() {
		defer done.Done()
		for event := range p.Events() {
			m, ok := event.(*kafka.Message)
			if !ok {
				continue
			}
			l := lanes[m.TopicPartition.Partition]
			number, _ := strconv.Atoi(string(m.Value))
			if m.TopicPartition.Error != nil {
				l.mu.Lock()
				l.refused[m.TopicPartition.Error.Error()]++
				l.mu.Unlock()
				continue
			}
			l.acknowledge(number, m.TopicPartition.Offset, time.Now())
		}
	}()
	go func() {
		defer done.Done()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for number := 0; ; {
			select {
			case <-stop:
				p.Flush(60000)
				p.Close()
				return
			case <-tick.C:
			}
			for i := 0; i < perSecond/100; i++ {
				for _, l := range lanes {
					value := []byte(strconv.Itoa(number))
					for p.Produce(&kafka.Message{
						TopicPartition: kafka.TopicPartition{Topic: &r.topic, Partition: l.partition},
						Key:            []byte(name), Value: value,
					}, nil) != nil { // the local queue is full while a broker is away
						time.Sleep(5 * time.Millisecond)
					}
				}
				number++
			}
		}
	}()
	return nil
}

// state asks the cluster who leads each partition and how many replicas are in sync.
func (r *run) state() ([]kafka.PartitionMetadata, error) {
	metadata, err := r.admin.GetMetadata(&r.topic, false, 2000)
	if err != nil {
		return nil, err
	}
	topic := metadata.Topics[r.topic]
	if topic.Error.Code() != kafka.ErrNoError {
		return nil, topic.Error
	}
	if len(topic.Partitions) != partitions {
		return nil, fmt.Errorf("%d partitions", len(topic.Partitions))
	}
	byID := make([]kafka.PartitionMetadata, partitions)
	for _, one := range topic.Partitions {
		byID[one.ID] = one
	}
	return byID, nil
}

// healed waits until every partition has a leader and all three replicas in its ISR.
func (r *run) healed(since time.Time) error {
	var last string
	for time.Since(since) < healLimit {
		state, err := r.state()
		if err != nil {
			last = err.Error()
			time.Sleep(20 * time.Millisecond)
			continue
		}
		whole := true
		last = ""
		for _, one := range state {
			last += fmt.Sprintf(" partition %d: leader %d, ISR %v;", one.ID, one.Leader, one.Isrs)
			whole = whole && one.Leader >= 0 && len(one.Isrs) == 3
		}
		if whole {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("not all replicas are back in the ISR after %s:%s", healLimit, last)
}

// lose kills one broker, waits until the topic is whole again, and tells the longest pause.
func (r *run) lose(broker int32, state []kafka.PartitionMetadata) (gap, heal time.Duration, err error) {
	before := time.Now()
	for _, l := range r.lanes {
		l.mark(before)
	}
	command := append(append([]string{}, r.kill[1:]...), strconv.Itoa(int(broker)))
	if out, err := exec.Command(r.kill[0], command...).CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("kill: %w: %s", err, out)
	}
	r.noticed(state, before)
	err = r.healed(before)
	heal = time.Since(before)
	// Acknowledgements of what was sent during the last pause must have come, too.
	deadline := time.Now().Add(healLimit)
	for _, l := range r.lanes {
		for l.silentSince(before) && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
		if l.silentSince(before) && err == nil {
			err = fmt.Errorf("the %s producer is not acknowledged in partition %d any more; refused: %v; %v", l.producer, l.partition, l.refused, l.fatal())
		}
		gap = max(gap, l.gap(time.Now()))
	}
	return gap, heal, err
}

// silentSince says that no acknowledgement has come since then.
func (l *lane) silentSince(then time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.last.After(then)
}

// noticed waits until the cluster shows that the broker is gone: a leader or an ISR differs from
// what it was. A broker may be back before anyone could see that; then the wait ends by itself.
func (r *run) noticed(before []kafka.PartitionMetadata, since time.Time) {
	for time.Since(since) < r.notice {
		now, err := r.state()
		if err == nil {
			for i, one := range now {
				if one.Leader != before[i].Leader || len(one.Isrs) < 3 {
					return
				}
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (r *run) rounds(rounds int, limit time.Duration) (failed int) {
	var worst time.Duration
	for round := 0; round < rounds; round++ {
		partition := round % partitions
		for _, role := range []string{"leader", "follower"} {
			state, err := r.state()
			if err != nil {
				fmt.Printf("FAIL killer: round %d: %v\n", round+1, err)
				failed++
				continue
			}
			victim := state[partition].Leader
			if role == "follower" {
				for _, replica := range state[partition].Replicas {
					if replica != state[partition].Leader {
						victim = replica
						if round%2 == 0 {
							break
						}
					}
				}
			}
			gap, heal, err := r.lose(victim, state)
			what := fmt.Sprintf("kill %d of the %s of partition %d (broker %d): produce paused for %d ms, all in sync after %d ms",
				round+1, role, partition, victim, gap.Milliseconds(), heal.Milliseconds())
			worst = max(worst, gap)
			switch {
			case err != nil:
				fmt.Printf("FAIL killer: %s: %v\n", what, err)
				failed++
			case gap > limit:
				fmt.Printf("FAIL killer: %s; the limit is %s\n", what, limit)
				failed++
			default:
				fmt.Printf("ok killer: %s\n", what)
			}
		}
	}
	fmt.Printf("longest pause: %d ms\n", worst.Milliseconds())
	return failed
}

// verify reads everything back and compares it with what was acknowledged.
func (r *run) verify() error {
	c, err := kafka.NewConsumer(&kafka.ConfigMap{
		"bootstrap.servers": r.bootstrap, "group.id": r.topic, "enable.auto.commit": false, "enable.partition.eof": true, "log_level": 0,
	})
	if err != nil {
		return err
	}
	defer c.Close()
	acked, read, twice := 0, 0, 0
	for partition := int32(0); partition < partitions; partition++ {
		got, err := r.readAll(c, partition)
		if err != nil {
			return fmt.Errorf("partition %d: %w", partition, err)
		}
		read += len(got)
		for _, l := range r.lanes {
			if l.partition != partition {
				continue
			}
			again, err := l.compare(got)
			if err != nil {
				return fmt.Errorf("%s records in partition %d: %w", l.producer, partition, err)
			}
			acked += len(l.acked)
			twice += again
		}
	}
	fmt.Printf("ok killer: all %d acknowledged records are there, in order (%d read, %d twice from the plain producer)\n", acked, read, twice)
	return nil
}

type record struct {
	offset   kafka.Offset
	producer string
	number   int
}

func (r *run) readAll(c *kafka.Consumer, partition int32) ([]record, error) {
	at := kafka.TopicPartition{Topic: &r.topic, Partition: partition, Offset: kafka.OffsetBeginning}
	if err := c.Assign([]kafka.TopicPartition{at}); err != nil {
		return nil, err
	}
	var got []record
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); {
		switch event := c.Poll(200).(type) {
		case *kafka.Message:
			number, err := strconv.Atoi(string(event.Value))
			if err != nil {
				return nil, fmt.Errorf("a record %q that nobody wrote", event.Value)
			}
			if n := len(got); n > 0 && event.TopicPartition.Offset <= got[n-1].offset {
				return nil, fmt.Errorf("offset %d comes after %d", event.TopicPartition.Offset, got[n-1].offset)
			}
			got = append(got, record{event.TopicPartition.Offset, string(event.Key), number})
		case kafka.PartitionEOF:
			return got, nil
		}
	}
	return nil, fmt.Errorf("no end of the partition after 60 s; %d records read", len(got))
}

// compare checks one lane against all records of its partition; it tells how many came twice.
func (l *lane) compare(got []record) (twice int, err error) {
	seen, next := map[int]bool{}, -1
	at := map[kafka.Offset]int{}
	for _, one := range got {
		if one.producer != l.producer {
			continue
		}
		at[one.offset] = one.number
		if seen[one.number] {
			if twice++; l.producer == "idempotent" {
				return 0, fmt.Errorf("record %d is there twice", one.number)
			}
			continue
		}
		seen[one.number] = true
		if one.number < next {
			return 0, fmt.Errorf("record %d comes after %d", one.number, next)
		}
		next = one.number
	}
	lost := 0
	for number, offset := range l.acked {
		if !seen[number] {
			lost++
		} else if found, there := at[offset]; offset >= 0 && (!there || found != number) {
			return 0, fmt.Errorf("record %d was acknowledged at offset %d, where %d is", number, offset, found)
		}
	}
	if lost > 0 {
		return 0, fmt.Errorf("%d of %d acknowledged records are lost", lost, len(l.acked))
	}
	if len(l.acked) == 0 {
		return 0, fmt.Errorf("none was ever acknowledged; refusals: %v", l.refused)
	}
	for why, count := range l.refused {
		if l.producer == "idempotent" {
			return 0, fmt.Errorf("%d records were refused: %s", count, why)
		}
	}
	return twice, nil
}
