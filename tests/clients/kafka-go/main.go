// segmentio/kafka-go: a Writer with the Hash balancer that lets topics be created for it, with each
// of the three acks, and a group Reader that commits at intervals and starts at the first offset.
package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
	"ottla.dev/tests/clients/claims"
)

const records = 300

func main() {
	claims.Run("kafka-go",
		claims.Claim{Name: "acks one: an automatic topic takes all records, a group reads each once", Try: roundTrip(kafka.RequireOne)},
		claims.Claim{Name: "acks all: an automatic topic takes all records, a group reads each once", Try: roundTrip(kafka.RequireAll)},
		claims.Claim{Name: "acks none: an automatic topic takes all records, a group reads each once", Try: roundTrip(kafka.RequireNone)},
		claims.Claim{Name: "a created topic of six partitions keeps each key in one partition", Try: manyPartitions},
	)
}

func writer(bootstrap, topic string, acks kafka.RequiredAcks) *kafka.Writer {
	return &kafka.Writer{
		Addr: kafka.TCP(bootstrap), Topic: topic, Balancer: &kafka.Hash{}, RequiredAcks: acks,
		AllowAutoTopicCreation: true, BatchTimeout: 20 * time.Millisecond,
	}
}

func reader(bootstrap, topic string) *kafka.Reader {
	return kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{bootstrap}, Topic: topic, GroupID: topic + "-group",
		CommitInterval: 200 * time.Millisecond, StartOffset: kafka.FirstOffset, MaxWait: 500 * time.Millisecond,
	})
}

func roundTrip(acks kafka.RequiredAcks) func(context.Context, string) error {
	return func(ctx context.Context, bootstrap string) error {
		topic := claims.Topic("kafka-go-" + acks.String())
		w := writer(bootstrap, topic, acks)
		defer w.Close()
		first := 0
		if acks == kafka.RequireNone {
			// What is written without acks before the new leader is in office may be lost, by contract.
			if err := untilWritten(ctx, w, kafka.Message{Key: []byte("early"), Value: []byte("early")}); err != nil {
				return err
			}
			if err := untilLed(ctx, bootstrap, topic); err != nil {
				return err
			}
			// A broker that refuses records without acks can only close the connection, and a Writer
			// sends one more request into it before it notices.
			kafka.DefaultTransport.(*kafka.Transport).CloseIdleConnections()
		}
		return writeAndReadAll(ctx, bootstrap, topic, w, first)
	}
}

// A Writer reports "unknown topic" while an automatic topic is being made; its users try again.
func untilWritten(ctx context.Context, w *kafka.Writer, messages ...kafka.Message) error {
	for {
		err := w.WriteMessages(ctx, messages...)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if !isTemporary(err) {
			return fmt.Errorf("write: %w", err)
		}
	}
}

func isTemporary(err error) bool {
	if many, ok := err.(kafka.WriteErrors); ok {
		for _, one := range many {
			if one != nil && !isTemporary(one) {
				return false
			}
		}
		return true
	}
	code, ok := err.(kafka.Error)
	return ok && code.Temporary()
}

func untilLed(ctx context.Context, bootstrap, topic string) error {
	for ctx.Err() == nil {
		conn, err := kafka.DialLeader(ctx, "tcp", bootstrap, topic, 0)
		if err == nil {
			_, _, err = conn.ReadOffsets()
			conn.Close()
			if err == nil {
				return nil
			}
		}
	}
	return fmt.Errorf("no leader for %s: %w", topic, ctx.Err())
}

func writeAndReadAll(ctx context.Context, bootstrap, topic string, w *kafka.Writer, from int) error {
	var batch []kafka.Message
	for i := from; i < records; i++ {
		batch = append(batch, kafka.Message{
			Key: []byte("key-" + strconv.Itoa(i%17)), Value: []byte(strconv.Itoa(i)),
			Headers: []kafka.Header{{Key: "twice", Value: []byte("a")}, {Key: "twice", Value: []byte("b")}},
		})
	}
	// One record first: when it needs another try while the topic is made, no order is at stake.
	if err := untilWritten(ctx, w, batch[0]); err != nil {
		return err
	}
	if err := w.WriteMessages(ctx, batch[1:]...); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	r := reader(bootstrap, topic)
	tally, home := claims.Expect(records), map[string]int{}
	for !tally.Complete() {
		m, err := r.ReadMessage(ctx)
		if err != nil {
			return fmt.Errorf("read with %d records missing: %w", tally.Missing(), err)
		}
		if string(m.Value) == "early" {
			continue
		}
		if err := tally.Add(string(m.Key), string(m.Value)); err != nil {
			return err
		}
		if len(m.Headers) != 2 || m.Headers[0].Key != "twice" || string(m.Headers[1].Value) != "b" {
			return fmt.Errorf("headers of record %s came back as %v", m.Value, m.Headers)
		}
		if at, known := home[string(m.Key)]; known && at != m.Partition {
			return fmt.Errorf("key %s in partitions %d and %d", m.Key, at, m.Partition)
		}
		home[string(m.Key)] = m.Partition
	}
	if err := r.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nothingAgain(ctx, bootstrap, topic, w)
}

// A second reader of the group gets none of what the first has committed: the first record that it
// sees is one that is written after it started.
func nothingAgain(ctx context.Context, bootstrap, topic string, w *kafka.Writer) error {
	r := reader(bootstrap, topic)
	defer r.Close()
	if err := w.WriteMessages(ctx, kafka.Message{Key: []byte("later"), Value: []byte("later")}); err != nil {
		return fmt.Errorf("write for the second reader: %w", err)
	}
	m, err := r.ReadMessage(ctx)
	if err != nil {
		return fmt.Errorf("second reader: %w", err)
	}
	if string(m.Value) != "later" {
		return fmt.Errorf("the second reader of the group got record %q again", m.Value)
	}
	return nil
}

func manyPartitions(ctx context.Context, bootstrap string) error {
	topic := claims.Topic("kafka-go-six")
	client := &kafka.Client{Addr: kafka.TCP(bootstrap)}
	made, err := client.CreateTopics(ctx, &kafka.CreateTopicsRequest{
		Topics: []kafka.TopicConfig{{Topic: topic, NumPartitions: 6, ReplicationFactor: -1}},
	})
	if err != nil {
		return err
	}
	if err := made.Errors[topic]; err != nil {
		return fmt.Errorf("create: %w", err)
	}
	w := writer(bootstrap, topic, kafka.RequireAll)
	defer w.Close()
	return writeAndReadAll(ctx, bootstrap, topic, w, 0)
}
