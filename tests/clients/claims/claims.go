// Package claims runs the named checks of one client program and prints a line for each:
// `ok NAME` or `FAIL NAME: why`. tests/clients/run counts those lines.
package claims

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"
)

// Limit is how long one claim may take.
const Limit = 90 * time.Second

// A Claim is a sentence about the cluster and the code that tries it.
type Claim struct {
	Name string
	Try  func(ctx context.Context, bootstrap string) error
}

// Run reads the bootstrap address from the command line, tries all claims in order and exits.
func Run(client string, all ...Claim) {
	bootstrap := flag.String("bootstrap", "127.0.0.1:9092", "address of a broker")
	flag.Parse()
	failed := false
	for _, claim := range all {
		ctx, cancel := context.WithTimeout(context.Background(), Limit)
		start := time.Now()
		done := make(chan error, 1)
		go func() { done <- claim.Try(ctx, *bootstrap) }()
		var err error
		select {
		case err = <-done:
		case <-time.After(Limit + 10*time.Second): // a client library may ignore its context
			err = fmt.Errorf("no end after %s", Limit)
		}
		cancel()
		took := time.Since(start).Round(time.Millisecond)
		if err != nil {
			failed = true
			fmt.Printf("FAIL %s: %s: %v (%s)\n", client, claim.Name, err, took)
		} else {
			fmt.Printf("ok %s: %s (%s)\n", client, claim.Name, took)
		}
	}
	if failed {
		os.Exit(1)
	}
}

// Topic gives a name that no earlier run has used.
func Topic(kind string) string { return fmt.Sprintf("%s-%d", kind, time.Now().UnixNano()) }

// A Tally says which of the values "0", "1", … "n-1" came, how often, and that per key they came in order.
type Tally struct {
	want int
	seen map[string]int
	last map[string]int
}

// Expect makes a tally for the values 0 to n-1.
func Expect(n int) *Tally {
	return &Tally{want: n, seen: map[string]int{}, last: map[string]int{}}
}

// Add takes one record: lane is what keeps order (a key, or a partition).
func (t *Tally) Add(lane, value string) error {
	var number int
	if _, err := fmt.Sscanf(value, "%d", &number); err != nil || number < 0 || number >= t.want {
		return fmt.Errorf("a record %q that nobody wrote", value)
	}
	if t.seen[value]++; t.seen[value] > 1 {
		return fmt.Errorf("record %q came twice", value)
	}
	if last, known := t.last[lane]; known && last > number {
		return fmt.Errorf("lane %q has record %d after %d", lane, number, last)
	}
	t.last[lane] = number
	return nil
}

// Complete says that all values have come.
func (t *Tally) Complete() bool { return len(t.seen) == t.want }

// Missing counts what has not come.
func (t *Tally) Missing() int { return t.want - len(t.seen) }
