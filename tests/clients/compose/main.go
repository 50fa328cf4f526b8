// compose: the three brokers of examples/compose.yaml as processes, from the environment in that
// very file, and the road through both of their listeners.
//
// Each service gets a loopback address of its own in place of its host name, so ports stay as they
// are in the file; its data goes to a temporary folder. Everything else is passed on untouched.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.yaml.in/yaml/v3"
	"ottla.dev/tests/clients/claims"
)

type service struct {
	Command     any               `yaml:"command"`
	Hostname    string            `yaml:"hostname"`
	Container   string            `yaml:"container_name"`
	Environment map[string]string `yaml:"environment"`
}

// A broker is one service as a process.
type broker struct {
	name, address string
	environment   map[string]string
	command       []string
	process       *exec.Cmd
	ended         chan error
	log           string
}

func main() {
	file := flag.String("file", "examples/compose.yaml", "the compose file")
	program := flag.String("ottla", "ottla", "the program")
	flag.Parse()
	work, err := os.MkdirTemp("", "compose")
	if err == nil {
		err = all(*file, *program, work)
		os.RemoveAll(work)
	}
	if err != nil {
		fmt.Printf("FAIL compose: %v\n", err)
		os.Exit(1)
	}
}

func all(file, program, work string) error {
	brokers, err := load(file, work)
	if err != nil {
		return err
	}
	for _, b := range brokers {
		if err := b.start(program); err != nil {
			return err
		}
		defer b.kill()
	}
	steps := []struct {
		name string
		try  func([]*broker) error
	}{
		{"three brokers form one cluster from the environment alone", formed},
		{"records go in through INSIDE and out through OUTSIDE", func(b []*broker) error { return through(b, "INSIDE", "OUTSIDE") }},
		{"records go in through OUTSIDE and out through INSIDE", func(b []*broker) error { return through(b, "OUTSIDE", "INSIDE") }},
		{"the topics of KAFKA_CREATE_TOPICS exist", created},
		{"all brokers end cleanly when asked", stopped},
	}
	for _, step := range steps {
		if err := step.try(brokers); err != nil {
			for _, b := range brokers {
				fmt.Fprintf(os.Stderr, "--- %s\n%s\n", b.name, b.tail())
			}
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Printf("ok compose: %s\n", step.name)
	}
	return nil
}

// load reads the services that have KAFKA_ settings, in the order of their names.
func load(file, work string) ([]*broker, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var compose struct {
		Services map[string]service `yaml:"services"`
	}
	if err := yaml.Unmarshal(text, &compose); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var brokers []*broker
	var names, hosts []string
	for name, s := range compose.Services {
		if s.Environment["KAFKA_LISTENERS"] != "" {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for i, name := range names {
		s := compose.Services[name]
		address := fmt.Sprintf("127.0.0.%d", 11+i)
		for _, host := range []string{name, s.Hostname, s.Container} {
			if host != "" {
				hosts = append(hosts, host+":", address+":")
			}
		}
		brokers = append(brokers, &broker{name: name, address: address, environment: s.Environment, command: words(s.Command)})
	}
	if len(brokers) != 3 {
		return nil, fmt.Errorf("%s has %d brokers, not 3", file, len(brokers))
	}
	for _, b := range brokers {
		// To a container these three mean itself.
		own := append([]string{"://0.0.0.0:", "://" + b.address + ":", "://localhost:", "://" + b.address + ":", "://:", "://" + b.address + ":"}, hosts...)
		settings := map[string]string{}
		for key, value := range b.environment {
			settings[key] = strings.NewReplacer(own...).Replace(value)
		}
		settings["KAFKA_LOG_DIRS"] = filepath.Join(work, b.name)
		b.environment, b.log = settings, filepath.Join(work, b.name+".log")
	}
	return brokers, nil
}

func words(command any) []string {
	switch command := command.(type) {
	case string:
		return strings.Fields(command)
	case []any:
		var all []string
		for _, word := range command {
			all = append(all, fmt.Sprint(word))
		}
		return all
	}
	return []string{"broker"} // what the image does by itself
}

func (b *broker) start(program string) error {
	log, err := os.Create(b.log)
	if err != nil {
		return err
	}
	defer log.Close()
	b.process = exec.Command(program, b.command...)
	for key, value := range b.environment {
		b.process.Env = append(b.process.Env, key+"="+value)
	}
	b.process.Stdout, b.process.Stderr = log, log
	if err := b.process.Start(); err != nil {
		return err
	}
	b.ended = make(chan error, 1)
	go func() { b.ended <- b.process.Wait() }()
	return nil
}

func (b *broker) kill() { _ = b.process.Process.Kill() }

func (b *broker) tail() string {
	text, _ := os.ReadFile(b.log)
	return string(text[max(0, len(text)-3000):])
}

// at gives the address that the broker advertises for a listener.
func (b *broker) at(listener string) (string, error) {
	for _, one := range strings.Split(b.environment["KAFKA_ADVERTISED_LISTENERS"], ",") {
		if rest, found := strings.CutPrefix(strings.TrimSpace(one), listener+"://"); found {
			return rest, nil
		}
	}
	return "", fmt.Errorf("%s advertises no listener %s", b.name, listener)
}

func within(limit time.Duration, try func() error) error {
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if err = try(); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

func metadata(bootstrap string) (*kafka.Metadata, error) {
	admin, err := kafka.NewAdminClient(&kafka.ConfigMap{"bootstrap.servers": bootstrap, "log_level": 0})
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	return admin.GetMetadata(nil, true, 3000)
}

// formed: whichever broker is asked, on whichever listener, it names all three at that listener.
func formed(brokers []*broker) error {
	for _, listener := range []string{"INSIDE", "OUTSIDE"} {
		want := map[string]bool{}
		for _, b := range brokers {
			at, err := b.at(listener)
			if err != nil {
				return err
			}
			want[at] = true
		}
		for _, b := range brokers {
			at, _ := b.at(listener)
			err := within(30*time.Second, func() error {
				select {
				case err := <-b.ended:
					b.ended <- err
					return fmt.Errorf("%s ended: %v", b.name, err)
				default:
				}
				found, err := metadata(at)
				if err != nil {
					return err
				}
				if len(found.Brokers) != 3 {
					return fmt.Errorf("%s knows %d brokers", at, len(found.Brokers))
				}
				for _, one := range found.Brokers {
					if name := net.JoinHostPort(one.Host, fmt.Sprint(one.Port)); !want[name] {
						return fmt.Errorf("%s of %s names %s", listener, b.name, name)
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func through(brokers []*broker, in, out string) error {
	topic := claims.Topic("compose")
	const records = 100
	producers := make([]string, 0, 3)
	for _, b := range brokers {
		at, err := b.at(in)
		if err != nil {
			return err
		}
		producers = append(producers, at)
	}
	p, err := kafka.NewProducer(&kafka.ConfigMap{"bootstrap.servers": strings.Join(producers, ","), "acks": "all"})
	if err != nil {
		return err
	}
	defer p.Close()
	for i := 0; i < records; i++ {
		message := &kafka.Message{
			TopicPartition: kafka.TopicPartition{Topic: &topic, Partition: kafka.PartitionAny}, Value: []byte(fmt.Sprint(i)),
		}
		if err := p.Produce(message, nil); err != nil {
			return err
		}
	}
	go func() {
		for range p.Events() {
		}
	}()
	if left := p.Flush(30000); left > 0 {
		return fmt.Errorf("%d records are not delivered", left)
	}
	for _, b := range brokers {
		at, err := b.at(out)
		if err != nil {
			return err
		}
		if err := readAll(at, topic, b.name, records); err != nil {
			return fmt.Errorf("from %s: %w", b.name, err)
		}
	}
	return nil
}

func readAll(bootstrap, topic, group string, records int) error {
	c, err := kafka.NewConsumer(&kafka.ConfigMap{
		"bootstrap.servers": bootstrap, "group.id": topic + "-" + group, "auto.offset.reset": "earliest",
	})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Subscribe(topic, nil); err != nil {
		return err
	}
	tally := claims.Expect(records)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for !tally.Complete() {
		if ctx.Err() != nil {
			return fmt.Errorf("%d records are missing", tally.Missing())
		}
		m, err := c.ReadMessage(200 * time.Millisecond)
		var why kafka.Error
		if errors.As(err, &why) && why.Code() != kafka.ErrTimedOut {
			return err
		}
		if err == nil {
			if err := tally.Add(fmt.Sprint(m.TopicPartition.Partition), string(m.Value)); err != nil {
				return err
			}
		}
	}
	return nil
}

// created: KAFKA_CREATE_TOPICS is a list of NAME:PARTITIONS:REPLICAS.
func created(brokers []*broker) error {
	var asked []string
	for _, b := range brokers {
		asked = append(asked, strings.FieldsFunc(b.environment["KAFKA_CREATE_TOPICS"], func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })...)
	}
	if len(asked) == 0 {
		return errors.New("the file asks for no topic")
	}
	at, err := brokers[0].at("OUTSIDE")
	if err != nil {
		return err
	}
	for _, one := range asked {
		name, rest, _ := strings.Cut(one, ":")
		var partitions int
		if _, err := fmt.Sscanf(rest, "%d", &partitions); err != nil {
			return fmt.Errorf("%q: %w", one, err)
		}
		if err := within(20*time.Second, func() error {
			found, err := metadata(at)
			if err != nil {
				return err
			}
			if got := len(found.Topics[name].Partitions); got != partitions {
				return fmt.Errorf("%s has %d partitions, not %d", name, got, partitions)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func stopped(brokers []*broker) error {
	for _, b := range brokers {
		if err := b.process.Process.Signal(syscall.SIGTERM); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
	}
	for _, b := range brokers {
		select {
		case err := <-b.ended:
			if err != nil {
				return fmt.Errorf("%s: %w", b.name, err)
			}
		case <-time.After(20 * time.Second):
			return fmt.Errorf("%s did not end within 20 s", b.name)
		}
	}
	return nil
}
