// confluent-kafka-go (librdkafka): a producer that leaves the partition open and flushes, and a
// group consumer from the earliest offset.
package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"ottla.dev/tests/clients/claims"
)

const records = 500

func main() {
	all := []claims.Claim{
		{Name: "PartitionAny and Flush deliver all, a group reads all from earliest once", Try: roundTrip("plain", nil)},
		{Name: "an idempotent producer delivers all, in order", Try: roundTrip("idempotent", kafka.ConfigMap{"enable.idempotence": true})},
	}
	for _, codec := range []string{"gzip", "snappy", "lz4", "zstd"} {
		all = append(all, claims.Claim{Name: codec + " batches come back", Try: roundTrip(codec, kafka.ConfigMap{"compression.codec": codec})})
	}
	all = append(all,
		claims.Claim{Name: "the admin client creates, describes, grows and deletes a topic", Try: admin},
		claims.Claim{Name: "two members share the partitions of a topic", Try: twoMembers("classic")},
		claims.Claim{Name: "two members of a consumer group (KIP-848) share them", Try: twoMembers("consumer")},
	)
	claims.Run("confluent-kafka-go", all...)
}

func producer(bootstrap string, extra kafka.ConfigMap) (*kafka.Producer, error) {
	config := kafka.ConfigMap{"bootstrap.servers": bootstrap, "linger.ms": 5}
	for key, value := range extra {
		config[key] = value
	}
	return kafka.NewProducer(&config)
}

func consumer(bootstrap, topic string) (*kafka.Consumer, error) {
	return consumerBy("classic", bootstrap, topic)
}

func consumerBy(protocol, bootstrap, topic string) (*kafka.Consumer, error) {
	config := kafka.ConfigMap{
		"bootstrap.servers": bootstrap, "group.id": topic + "-group", "auto.offset.reset": "earliest",
		"group.protocol": protocol, "topic.metadata.refresh.interval.ms": 1000,
	}
	// In a consumer group the broker says how long a session is.
	if protocol == "classic" {
		config["session.timeout.ms"] = 10000
	}
	c, err := kafka.NewConsumer(&config)
	if err != nil {
		return nil, err
	}
	return c, c.Subscribe(topic, nil)
}

// produce writes the values from up to (not with) to, and sees each delivery confirmed.
func produce(p *kafka.Producer, topic string, from, to int) error {
	reports := make(chan kafka.Event, to-from)
	for i := from; i < to; i++ {
		err := p.Produce(&kafka.Message{
			TopicPartition: kafka.TopicPartition{Topic: &topic, Partition: kafka.PartitionAny},
			Key:            []byte("key-" + strconv.Itoa(i%13)), Value: []byte(strconv.Itoa(i)),
			Headers: []kafka.Header{{Key: "twice", Value: []byte("a")}, {Key: "twice", Value: []byte("b")}},
		}, reports)
		if err != nil {
			return err
		}
	}
	if left := p.Flush(30000); left > 0 {
		return fmt.Errorf("%d records are not delivered after Flush", left)
	}
	for i := from; i < to; i++ {
		if m := (<-reports).(*kafka.Message); m.TopicPartition.Error != nil {
			return fmt.Errorf("record %s: %w", m.Value, m.TopicPartition.Error)
		}
	}
	return nil
}

func read(ctx context.Context, c *kafka.Consumer) (*kafka.Message, error) {
	for ctx.Err() == nil {
		m, err := c.ReadMessage(200 * time.Millisecond)
		if err == nil {
			return m, nil
		}
		code := err.(kafka.Error).Code()
		if code != kafka.ErrTimedOut && code != kafka.ErrUnknownTopicOrPart && code != kafka.ErrUnknownTopic {
			return nil, err
		}
	}
	return nil, ctx.Err()
}

func roundTrip(kind string, extra kafka.ConfigMap) func(context.Context, string) error {
	return func(ctx context.Context, bootstrap string) error {
		topic := claims.Topic("confluent-" + kind)
		p, err := producer(bootstrap, extra)
		if err != nil {
			return err
		}
		defer p.Close()
		go func() { // connection errors and the like arrive here; deliveries have their own channel
			for range p.Events() {
			}
		}()
		if err := produce(p, topic, 0, records); err != nil {
			return err
		}
		c, err := consumer(bootstrap, topic)
		if err != nil {
			return err
		}
		tally := claims.Expect(records + 1)
		for tally.Missing() > 1 {
			m, err := read(ctx, c)
			if err != nil {
				return fmt.Errorf("read with %d records missing: %w", tally.Missing(), err)
			}
			if err := tally.Add(string(m.Key), string(m.Value)); err != nil {
				return err
			}
			if len(m.Headers) != 2 || m.Headers[0].Key != "twice" || string(m.Headers[1].Value) != "b" {
				return fmt.Errorf("headers of record %s came back as %v", m.Value, m.Headers)
			}
		}
		if err := c.Close(); err != nil { // commits
			return err
		}
		// A second consumer of the group gets the next record and none of the first ones.
		if err := produce(p, topic, records, records+1); err != nil {
			return err
		}
		again, err := consumer(bootstrap, topic)
		if err != nil {
			return err
		}
		defer again.Close()
		m, err := read(ctx, again)
		if err != nil {
			return fmt.Errorf("second consumer: %w", err)
		}
		return tally.Add("later", string(m.Value))
	}
}

func admin(ctx context.Context, bootstrap string) error {
	topic := claims.Topic("confluent-admin")
	a, err := kafka.NewAdminClient(&kafka.ConfigMap{"bootstrap.servers": bootstrap})
	if err != nil {
		return err
	}
	defer a.Close()
	made, err := a.CreateTopics(ctx, []kafka.TopicSpecification{{
		Topic: topic, NumPartitions: 2, ReplicationFactor: 1, Config: map[string]string{"retention.ms": "86400000"},
	}}, kafka.SetAdminOperationTimeout(20*time.Second))
	if err != nil {
		return err
	}
	if code := made[0].Error.Code(); code != kafka.ErrNoError {
		return fmt.Errorf("create: %w", made[0].Error)
	}
	if again, err := a.CreateTopics(ctx, []kafka.TopicSpecification{{Topic: topic, NumPartitions: 2, ReplicationFactor: 1}}); err != nil {
		return err
	} else if again[0].Error.Code() != kafka.ErrTopicAlreadyExists {
		return fmt.Errorf("a second create answered %v", again[0].Error)
	}
	resource := kafka.ConfigResource{Type: kafka.ResourceTopic, Name: topic}
	alter := resource
	alter.Config = []kafka.ConfigEntry{{Name: "max.message.bytes", Value: "2000000", IncrementalOperation: kafka.AlterConfigOpTypeSet}}
	if altered, err := a.IncrementalAlterConfigs(ctx, []kafka.ConfigResource{alter}); err != nil {
		return err
	} else if altered[0].Error.Code() != kafka.ErrNoError {
		return fmt.Errorf("alter: %w", altered[0].Error)
	}
	want := map[string]string{"retention.ms": "86400000", "max.message.bytes": "2000000"}
	if err := eventually(ctx, func() error {
		described, err := a.DescribeConfigs(ctx, []kafka.ConfigResource{resource})
		if err != nil {
			return err
		}
		for name, value := range want {
			if got := described[0].Config[name].Value; got != value {
				return fmt.Errorf("%s is %q, not %q", name, got, value)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if grown, err := a.CreatePartitions(ctx, []kafka.PartitionsSpecification{{Topic: topic, IncreaseTo: 5}}); err != nil {
		return err
	} else if grown[0].Error.Code() != kafka.ErrNoError {
		return fmt.Errorf("grow: %w", grown[0].Error)
	}
	if err := eventually(ctx, func() error { return partitions(a, topic, 5) }); err != nil {
		return err
	}
	gone, err := a.DeleteTopics(ctx, []string{topic}, kafka.SetAdminOperationTimeout(20*time.Second))
	if err != nil {
		return err
	}
	if gone[0].Error.Code() != kafka.ErrNoError {
		return fmt.Errorf("delete: %w", gone[0].Error)
	}
	return eventually(ctx, func() error { return partitions(a, topic, 0) })
}

func partitions(a *kafka.AdminClient, topic string, want int) error {
	metadata, err := a.GetMetadata(nil, true, 5000)
	if err != nil {
		return err
	}
	if got := len(metadata.Topics[topic].Partitions); got != want {
		return fmt.Errorf("%s has %d partitions, not %d", topic, got, want)
	}
	return nil
}

func eventually(ctx context.Context, try func() error) error {
	var err error
	for ctx.Err() == nil {
		if err = try(); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// Two members of a group get disjoint halves; when one leaves, the other gets all.
func twoMembers(protocol string) func(context.Context, string) error {
	return func(ctx context.Context, bootstrap string) error { return share(ctx, protocol, bootstrap) }
}

func share(ctx context.Context, protocol, bootstrap string) error {
	topic := claims.Topic("confluent-members-" + protocol)
	a, err := kafka.NewAdminClient(&kafka.ConfigMap{"bootstrap.servers": bootstrap})
	if err != nil {
		return err
	}
	defer a.Close()
	made, err := a.CreateTopics(ctx, []kafka.TopicSpecification{{Topic: topic, NumPartitions: 4, ReplicationFactor: 1}})
	if err != nil {
		return err
	}
	if made[0].Error.Code() != kafka.ErrNoError {
		return made[0].Error
	}
	first, err := consumerBy(protocol, bootstrap, topic)
	if err != nil {
		return err
	}
	second, err := consumerBy(protocol, bootstrap, topic)
	if err != nil {
		return err
	}
	shares := func(c *kafka.Consumer) int {
		c.Poll(50)
		held, _ := c.Assignment()
		return len(held)
	}
	for {
		// Both must be polled in each round: a member that is not polled holds up the rebalance.
		one, two := shares(first), shares(second)
		if one == 2 && two == 2 {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the members hold %d and %d of 4 partitions", one, two)
		}
	}
	if err := first.Close(); err != nil {
		return err
	}
	for shares(second) != 4 {
		if ctx.Err() != nil {
			return fmt.Errorf("the member that stayed holds %d of 4 partitions", shares(second))
		}
	}
	return second.Close()
}
