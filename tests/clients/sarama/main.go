// IBM/sarama: a SyncProducer that waits for all replicas, with the random partitioner, at the
// oldest protocol version that people still configure and at the newest that sarama knows.
package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/IBM/sarama"
	"ottla.dev/tests/clients/claims"
)

const records = 100

func main() {
	var all []claims.Claim
	for _, version := range []sarama.KafkaVersion{sarama.V2_1_0_0, sarama.MaxVersion} {
		all = append(all,
			claims.Claim{Name: "version " + version.String() + ": each record is where SyncProducer said", Try: roundTrip(version, false)},
			claims.Claim{Name: "version " + version.String() + ": an automatic topic takes records", Try: roundTrip(version, true)},
			claims.Claim{Name: "version " + version.String() + ": a group reads all and commits", Try: group(version)},
		)
	}
	claims.Run("sarama", all...)
}

func config(version sarama.KafkaVersion) *sarama.Config {
	c := sarama.NewConfig()
	c.Version = version
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Partitioner = sarama.NewRandomPartitioner
	c.Producer.Return.Successes = true
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.MaxWaitTime = 20 * time.Millisecond // closing a consumer waits for its last fetch
	return c
}

func create(bootstrap, topic string, version sarama.KafkaVersion) error {
	admin, err := sarama.NewClusterAdmin([]string{bootstrap}, config(version))
	if err != nil {
		return err
	}
	defer admin.Close()
	return admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 3, ReplicationFactor: 1}, false)
}

type place struct {
	partition int32
	offset    int64
}

func send(bootstrap, topic string, version sarama.KafkaVersion) (map[place]string, error) {
	producer, err := sarama.NewSyncProducer([]string{bootstrap}, config(version))
	if err != nil {
		return nil, err
	}
	defer producer.Close()
	places := map[place]string{}
	for i := 0; i < records; i++ {
		value := strconv.Itoa(i)
		message := &sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder(value)}
		partition, offset, err := producer.SendMessage(message)
		if err != nil {
			return nil, fmt.Errorf("send %s: %w", value, err)
		}
		at := place{partition, offset}
		if other, taken := places[at]; taken {
			return nil, fmt.Errorf("records %s and %s are both at %v", other, value, at)
		}
		places[at] = value
	}
	return places, nil
}

func roundTrip(version sarama.KafkaVersion, automatic bool) func(context.Context, string) error {
	return func(ctx context.Context, bootstrap string) error {
		topic := claims.Topic("sarama")
		if !automatic {
			if err := create(bootstrap, topic, version); err != nil {
				return fmt.Errorf("create: %w", err)
			}
		}
		places, err := send(bootstrap, topic, version)
		if err != nil {
			return err
		}
		consumer, err := sarama.NewConsumer([]string{bootstrap}, config(version))
		if err != nil {
			return err
		}
		defer consumer.Close()
		sample := 10 // each takes a consumer of its own
		for at, value := range places {
			if sample--; sample < 0 {
				break
			}
			if err := readAt(ctx, consumer, topic, at, value); err != nil {
				return err
			}
		}
		return nil
	}
}

func readAt(ctx context.Context, consumer sarama.Consumer, topic string, at place, value string) error {
	one, err := consumer.ConsumePartition(topic, at.partition, at.offset)
	if err != nil {
		return fmt.Errorf("consume from %v: %w", at, err)
	}
	defer one.Close()
	select {
	case m := <-one.Messages():
		if m.Offset != at.offset || string(m.Value) != value {
			return fmt.Errorf("at %v is %q (offset %d), not %q", at, m.Value, m.Offset, value)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("nothing at %v: %w", at, ctx.Err())
	}
}

// taker ends its session once all records have come.
type taker struct {
	tally *claims.Tally
	stop  context.CancelFunc
	err   error
}

func (t *taker) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (t *taker) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (t *taker) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case m, open := <-claim.Messages():
			if !open {
				return nil
			}
			session.MarkMessage(m, "")
			if t.err = t.tally.Add(string(m.Key), string(m.Value)); t.err != nil || t.tally.Complete() {
				t.stop()
			}
		case <-session.Context().Done():
			return nil
		}
	}
}

func group(version sarama.KafkaVersion) func(context.Context, string) error {
	return func(ctx context.Context, bootstrap string) error {
		topic := claims.Topic("sarama-group")
		if _, err := send(bootstrap, topic, version); err != nil {
			return err
		}
		client, err := sarama.NewClient([]string{bootstrap}, config(version))
		if err != nil {
			return err
		}
		defer client.Close()
		members, err := sarama.NewConsumerGroupFromClient(topic+"-group", client)
		if err != nil {
			return err
		}
		inner, stop := context.WithCancel(ctx)
		defer stop()
		t := &taker{tally: claims.Expect(records), stop: stop}
		for inner.Err() == nil {
			if err := members.Consume(inner, []string{topic}, t); err != nil {
				return err
			}
		}
		if err := members.Close(); err != nil {
			return err
		}
		if t.err != nil || ctx.Err() != nil {
			return fmt.Errorf("%d records missing: %v", t.tally.Missing(), t.err)
		}
		admin, err := sarama.NewClusterAdmin([]string{bootstrap}, config(version))
		if err != nil {
			return err
		}
		defer admin.Close()
		partitions, err := client.Partitions(topic)
		if err != nil {
			return err
		}
		committed, err := admin.ListConsumerGroupOffsets(topic+"-group", map[string][]int32{topic: partitions})
		if err != nil {
			return err
		}
		sum := int64(0)
		for _, partition := range partitions {
			if block := committed.GetBlock(topic, partition); block != nil && block.Offset > 0 {
				sum += block.Offset
			}
		}
		if sum != records {
			return fmt.Errorf("the committed offsets add up to %d, not %d", sum, records)
		}
		return nil
	}
}
