// Package load writes numbered records while something happens to the cluster, and proves in the end
// what acks=all promises.
//
// Two producers, one idempotent and one plain (one request in flight, so that a retry cannot
// overtake), write to the partitions of a topic of replication factor 3. Each acknowledgement is
// kept with its time and offset. Verify reads all partitions from the start:
//   - each acknowledged record is there, at the offset that the acknowledgement named;
//   - the records of a producer in a partition come in the order in which they were sent;
//   - nothing is there twice, unless its producer is plain.
package load

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

const (
	// Partitions of the topic.
	Partitions = 3
	perSecond  = 500 // records per lane
	// HealLimit is how long a cluster may take until all replicas are in sync.
	HealLimit = 60 * time.Second
)

// A Lane is one producer's records in one partition.
type Lane struct {
	Producer  string
	Partition int32

	mu      sync.Mutex
	acked   map[int]kafka.Offset
	last    time.Time // when the last acknowledgement came
	longest Pause     // between two acknowledgements, since mark
	refused map[string]int
	// Not 0: order is claimed up to this record.
	orderedTo int
	fatal     func() error // why the client library has given up, if it has
}

// A Pause is a time without acknowledgements.
type Pause struct {
	From   time.Time
	Length time.Duration
}

// or tells the longer one.
func (p Pause) or(other Pause) Pause {
	if other.Length > p.Length {
		return other
	}
	return p
}

func (l *Lane) acknowledge(number int, offset kafka.Offset, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.longest = l.longest.or(Pause{l.last, now.Sub(l.last)})
	l.last = now
	l.acked[number] = offset
}

// Mark starts a new measure of the longest gap.
func (l *Lane) Mark(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last, l.longest = now, Pause{From: now}
}

// Gap is the longest time without an acknowledgement since mark, the present one included.
func (l *Lane) Gap(now time.Time) Pause {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.longest.or(Pause{l.last, now.Sub(l.last)})
}

// A Load is a topic and the producers that write to it.
type Load struct {
	Bootstrap, Topic string
	Admin            *kafka.AdminClient
	Lanes            []*Lane
	config           kafka.ConfigMap
	stop             chan struct{}
	producing        sync.WaitGroup
}

// Start creates the topic and starts the producers; config is added to their settings.
func Start(bootstrap, topic string, config kafka.ConfigMap) (*Load, error) {
	admin, err := kafka.NewAdminClient(&kafka.ConfigMap{"bootstrap.servers": bootstrap, "socket.timeout.ms": 10000})
	if err != nil {
		return nil, err
	}
	l := &Load{Bootstrap: bootstrap, Topic: topic, Admin: admin, config: config, stop: make(chan struct{})}
	if err := l.create(); err != nil {
		return nil, err
	}
	for _, idempotent := range []bool{true, false} {
		if err := l.produce(idempotent); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Stop ends the producers, once all that they sent is acknowledged or refused.
func (r *Load) Stop() {
	close(r.stop)
	r.producing.Wait()
}

func (r *Load) create() error {
	made, err := r.Admin.CreateTopics(context.Background(), []kafka.TopicSpecification{{
		Topic: r.Topic, NumPartitions: Partitions, ReplicationFactor: 3, Config: map[string]string{"min.insync.replicas": "2"},
	}}, kafka.SetAdminOperationTimeout(20*time.Second))
	if err != nil {
		return err
	}
	if made[0].Error.Code() != kafka.ErrNoError {
		return fmt.Errorf("create: %w", made[0].Error)
	}
	return r.Healed(time.Now())
}

// produce starts one producer, which writes to all partitions until Stop.
func (r *Load) produce(idempotent bool) error {
	config := kafka.ConfigMap{
		"bootstrap.servers": r.Bootstrap, "acks": "all", "linger.ms": 2, "enable.idempotence": idempotent,
		"message.timeout.ms": 120000, "retry.backoff.ms": 50, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200,
		"topic.metadata.refresh.fast.interval.ms": 50, "request.timeout.ms": 3000, "log_level": 0,
	}
	for key, value := range r.config {
		config[key] = value
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
	lanes := make([]*Lane, Partitions)
	for i := range lanes {
		lanes[i] = &Lane{Producer: name, Partition: int32(i), acked: map[int]kafka.Offset{}, last: time.Now(), refused: map[string]int{}, fatal: p.GetFatalError}
	}
	r.Lanes = append(r.Lanes, lanes...)
	r.producing.Add(2)
	go func() {
		defer r.producing.Done()
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
		defer r.producing.Done()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for number := 0; ; {
			select {
			case <-r.stop:
				p.Flush(60000)
				p.Close()
				return
			case <-tick.C:
			}
			for i := 0; i < perSecond/100; i++ {
				for _, l := range lanes {
					value := []byte(strconv.Itoa(number))
					for p.Produce(&kafka.Message{
						TopicPartition: kafka.TopicPartition{Topic: &r.Topic, Partition: l.Partition},
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

// State asks the cluster who leads each partition and how many replicas are in sync.
func (r *Load) State() ([]kafka.PartitionMetadata, error) { return r.stateBy(r.Admin) }

// StateSeenBy asks the brokers at these addresses only: one that hangs would not answer.
func (r *Load) StateSeenBy(addresses string) ([]kafka.PartitionMetadata, error) {
	admin, err := kafka.NewAdminClient(&kafka.ConfigMap{"bootstrap.servers": addresses, "log_level": 0})
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	return r.stateBy(admin)
}

func (r *Load) stateBy(admin *kafka.AdminClient) ([]kafka.PartitionMetadata, error) {
	metadata, err := admin.GetMetadata(&r.Topic, false, 5000)
	if err != nil {
		return nil, err
	}
	topic := metadata.Topics[r.Topic]
	if topic.Error.Code() != kafka.ErrNoError {
		return nil, topic.Error
	}
	if len(topic.Partitions) != Partitions {
		return nil, fmt.Errorf("%d partitions", len(topic.Partitions))
	}
	byID := make([]kafka.PartitionMetadata, Partitions)
	for _, one := range topic.Partitions {
		byID[one.ID] = one
	}
	return byID, nil
}

// MayReorder says that a broker is about to hang. A client sends to the new leader while it still
// waits for an answer of the old one: then only an idempotent producer keeps its order.
func (r *Load) MayReorder() {
	for _, l := range r.Lanes {
		l.mu.Lock()
		if l.Producer == "plain" && l.orderedTo == 0 {
			for number := range l.acked {
				l.orderedTo = max(l.orderedTo, number)
			}
		}
		l.mu.Unlock()
	}
}

// Healed waits until every partition has a leader and all three replicas in its ISR.
func (r *Load) Healed(since time.Time) error {
	var last string
	for time.Since(since) < HealLimit {
		state, err := r.State()
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
	return fmt.Errorf("not all replicas are back in the ISR after %s:%s", HealLimit, last)
}

// SilentSince says that no acknowledgement has come since then.
func (l *Lane) SilentSince(then time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.last.After(then)
}

// Verify reads everything back and compares it with what was acknowledged.
func (r *Load) Verify() (string, error) {
	c, err := kafka.NewConsumer(&kafka.ConfigMap{
		"bootstrap.servers": r.Bootstrap, "group.id": r.Topic, "enable.auto.commit": false, "enable.partition.eof": true, "log_level": 0,
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	acked, read, twice := 0, 0, 0
	for partition := int32(0); partition < Partitions; partition++ {
		got, err := r.readAll(c, partition)
		if err != nil {
			return "", fmt.Errorf("partition %d: %w", partition, err)
		}
		read += len(got)
		for _, l := range r.Lanes {
			if l.Partition != partition {
				continue
			}
			again, err := l.compare(got)
			if err != nil {
				return "", fmt.Errorf("%s records in partition %d: %w", l.Producer, partition, err)
			}
			acked += len(l.acked)
			twice += again
		}
	}
	return fmt.Sprintf("all %d acknowledged records are there, in order (%d read, %d twice from the plain producer)", acked, read, twice), nil
}

type record struct {
	offset   kafka.Offset
	producer string
	number   int
}

func (r *Load) readAll(c *kafka.Consumer, partition int32) ([]record, error) {
	at := kafka.TopicPartition{Topic: &r.Topic, Partition: partition, Offset: kafka.OffsetBeginning}
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
func (l *Lane) compare(got []record) (twice int, err error) {
	seen, next := map[int]bool{}, -1
	at := map[kafka.Offset]int{}
	for _, one := range got {
		if one.producer != l.Producer {
			continue
		}
		at[one.offset] = one.number
		if seen[one.number] {
			if twice++; l.Producer == "idempotent" {
				return 0, fmt.Errorf("record %d is there twice", one.number)
			}
			continue
		}
		seen[one.number] = true
		if one.number < next && (l.orderedTo == 0 || one.number <= l.orderedTo) {
			return 0, fmt.Errorf("record %d comes after %d", one.number, next)
		}
		next = max(next, one.number)
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
		if l.Producer == "idempotent" {
			return 0, fmt.Errorf("%d records were refused: %s", count, why)
		}
	}
	return twice, nil
}

// Trouble tells why a lane may be silent: what was refused, and whether its client has given up.
func (l *Lane) Trouble() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("the %s producer is not acknowledged in partition %d any more; refused: %v; %v", l.Producer, l.Partition, l.refused, l.fatal())
}

// Mark starts a new measure in all lanes.
func (r *Load) Mark(now time.Time) {
	for _, l := range r.Lanes {
		l.Mark(now)
	}
}

// Resumed waits until each lane was acknowledged something after the time, and tells the longest
// pause in those lanes that are measured.
func (r *Load) Resumed(since time.Time, measured func(*Lane) bool) (gap Pause, err error) {
	deadline := time.Now().Add(HealLimit)
	for _, l := range r.Lanes {
		for l.SilentSince(since) && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
		if l.SilentSince(since) && err == nil {
			err = fmt.Errorf("%s", l.Trouble())
		}
		if measured(l) {
			gap = gap.or(l.Gap(time.Now()))
		}
	}
	return gap, err
}
