// killer: what acks=all promises while brokers die, under the load of package load.
//
// Round after round the leader of one partition is killed with SIGKILL, and then one of its
// followers; the cluster brings each back. After each kill produce must resume within the limit, and
// the broker must come back into every ISR. In the end nothing may be missing.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"ottla.dev/tests/clients/claims"
	"ottla.dev/tests/clients/load"
)

// Longer than any session timeout in use here; but a broker whose loss nobody notices within the
// limit of a pause is back.
const noticeLimit = 8 * time.Second

type run struct {
	*load.Load
	kill   []string
	notice time.Duration
}

func main() {
	bootstrap := flag.String("bootstrap", "127.0.0.1:9092", "addresses of brokers")
	rounds := flag.Int("rounds", 10, "how often a leader, and then a follower, is killed")
	limit := flag.Duration("limit", 3*time.Second, "the longest pause in acknowledgements after a kill")
	kill := flag.String("kill", "", "command that kills the broker whose id is appended")
	flag.Parse()
	if err := all(*bootstrap, strings.Fields(*kill), *rounds, *limit); err != nil {
		fmt.Printf("FAIL killer: %v\n", err)
		os.Exit(1)
	}
}

func all(bootstrap string, kill []string, rounds int, limit time.Duration) error {
	started, err := load.Start(bootstrap, claims.Topic("kill"), nil)
	if err != nil {
		return err
	}
	r := &run{Load: started, kill: kill, notice: min(noticeLimit, limit)}
	failed := r.rounds(rounds, limit)
	r.Stop()
	proof, err := r.Verify()
	if err != nil {
		return err
	}
	fmt.Printf("ok killer: %s\n", proof)
	if failed > 0 {
		return fmt.Errorf("%d kills did not heal in time", failed)
	}
	return nil
}

// lose kills one broker, waits until the topic is whole again, and tells the longest pause.
func (r *run) lose(broker int32, state []kafka.PartitionMetadata) (gap, heal time.Duration, err error) {
	before := time.Now()
	r.Mark(before)
	command := append(append([]string{}, r.kill[1:]...), strconv.Itoa(int(broker)))
	if out, err := exec.Command(r.kill[0], command...).CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("kill: %w: %s", err, out)
	}
	r.noticed(state, before)
	err = r.Healed(before)
	heal = time.Since(before)
	// Acknowledgements of what was sent during the last pause must have come, too.
	pause, silent := r.Resumed(before, func(*load.Lane) bool { return true })
	if err == nil {
		err = silent
	}
	return pause.Length, heal, err
}

// noticed waits until the cluster shows that the broker is gone: a leader or an ISR differs from
// what it was. A broker may be back before anyone could see that; then the wait ends by itself.
func (r *run) noticed(before []kafka.PartitionMetadata, since time.Time) {
	for time.Since(since) < r.notice {
		now, err := r.State()
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
		partition := round % load.Partitions
		for _, role := range []string{"leader", "follower"} {
			state, err := r.State()
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
