// failover: how long producers stand still when a broker, the active controller, or both at once are
// gone, under the load of package load.
//
// Each broker leads one partition. A round kills (SIGKILL) a leader on a node that is not the active
// controller's, and then the active controller's node, which leads, too: the partitions led elsewhere
// tell what the loss of a controller costs, the one led there what the loss of both at once does.
// Then a broker, and the active controller's node, are stopped (SIGSTOP) for ten seconds: they are
// given up like machines that died, and rejoin. Then all of them get little CPU time, and none may be
// given up. In the end nothing may be missing.
//
// An acknowledgement here waits for fsync on two replicas, and one device is below all brokers. A
// pause above the limit may leave out the time in which that device is seen to stand still: what is
// left must be within the limit, and both are told.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"ottla.dev/tests/clients/claims"
	"ottla.dev/tests/clients/load"
)

const (
	stopped = 10 * time.Second
	starved = 15 * time.Second
	// Processes per CPU that want all of it.
	greed = 12
)

type run struct {
	*load.Load
	signal []string
	disk   *disk
	// Times without acknowledgements, by what was lost.
	pauses map[string][]load.Pause
}

func main() {
	bootstrap := flag.String("bootstrap", "127.0.0.1:9092", "addresses of brokers")
	rounds := flag.Int("rounds", 30, "how often a leader, and then the controller's node, is killed")
	p50 := flag.Duration("p50", 400*time.Millisecond, "the median pause may be this long")
	worst := flag.Duration("worst", time.Second, "no pause may be longer")
	frozen := flag.Duration("frozen", 4*time.Second, "no pause may be longer when a broker is stopped")
	data := flag.String("data", "", "the folder of the brokers' data, on whose device they wait")
	signal := flag.String("signal", "", "command that sends a signal to a broker: its id and the signal are appended")
	flag.Parse()
	below, err := watch(*data)
	if err == nil {
		err = all(*bootstrap, strings.Fields(*signal), below, *rounds, *p50, *worst, *frozen)
	}
	if err != nil {
		fmt.Printf("FAIL failover: %v\n", err)
		os.Exit(1)
	}
}

func all(bootstrap string, signal []string, below *disk, rounds int, p50, worst, frozen time.Duration) error {
	// What is measured is the cluster: a client that looks for new leaders often.
	started, err := load.Start(bootstrap, claims.Topic("failover"), kafka.ConfigMap{
		"topic.metadata.refresh.interval.ms": 200, "topic.metadata.refresh.fast.interval.ms": 20,
		"retry.backoff.ms": 20, "reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 50, "request.timeout.ms": 1500,
	})
	if err != nil {
		return err
	}
	r := &run{Load: started, signal: signal, disk: below, pauses: map[string][]load.Pause{}}
	failed := 0
	for round := 0; round < rounds; round++ {
		if err := r.round(round); err != nil {
			// What has not healed in a minute does not heal: no point in going on.
			fmt.Printf("FAIL failover: round %d: %v\n", round+1, err)
			failed++
			break
		}
	}
	for _, lost := range []string{"a leader", "the active controller", "both at once"} {
		failed += r.judge(lost, p50, worst)
	}
	r.MayReorder()
	failed += r.freeze(frozen)
	if what, err := r.starve(); err != nil {
		fmt.Printf("FAIL failover: too little CPU for %s: %v\n", starved, err)
		failed++
	} else {
		fmt.Printf("ok failover: too little CPU for %s: %s\n", starved, what)
	}
	r.Stop()
	proof, err := r.Verify()
	if err != nil {
		return err
	}
	fmt.Printf("ok failover: %s\n", proof)
	if failed > 0 {
		return fmt.Errorf("%d claims failed", failed)
	}
	return nil
}

func (r *run) judge(lost string, p50, worst time.Duration) int {
	pauses := r.pauses[lost]
	if len(pauses) == 0 {
		fmt.Printf("FAIL failover: %s was never lost\n", lost)
		return 1
	}
	slices.SortFunc(pauses, func(a, b load.Pause) int { return cmp.Compare(a.Length, b.Length) })
	at := func(index int) time.Duration { return pauses[index].Length }
	median, longest := at(len(pauses)/2), time.Duration(0)
	what := fmt.Sprintf("%s lost %d times: p50 %d ms, p90 %d ms, worst %d ms without acknowledgements", lost, len(pauses),
		median.Milliseconds(), at(len(pauses)*9/10).Milliseconds(), at(len(pauses)-1).Milliseconds())
	for _, pause := range pauses {
		left := pause.Length
		if left > worst {
			stood := r.disk.stood(pause.From, pause.From.Add(pause.Length))
			left -= stood
			what += fmt.Sprintf("; in those %d ms the disk stood still for %d", pause.Length.Milliseconds(), stood.Milliseconds())
		}
		longest = max(longest, left)
	}
	if median > p50 || longest > worst {
		fmt.Printf("FAIL failover: %s; the limits are %s and %s\n", what, p50, worst)
		return 1
	}
	fmt.Printf("ok failover: %s\n", what)
	return 0
}

func (r *run) round(round int) error {
	active, leaders, err := r.level()
	if err != nil {
		return err
	}
	// A leader on another node; turn by turn.
	victim, turn := int32(-1), round
	for _, leader := range append(leaders, leaders...) {
		if leader != active {
			if victim = leader; turn%2 == 0 {
				break
			}
			turn++
		}
	}
	everything := func(*load.Lane) bool { return true }
	pauses, err := r.lose(victim, everything)
	if err != nil {
		return fmt.Errorf("broker %d: %w", victim, err)
	}
	r.pauses["a leader"] = append(r.pauses["a leader"], pauses[0])

	if active, leaders, err = r.level(); err != nil {
		return err
	}
	ledThere := func(l *load.Lane) bool { return leaders[l.Partition] == active }
	ledElsewhere := func(l *load.Lane) bool { return !ledThere(l) }
	both, err := r.lose(active, ledElsewhere, ledThere)
	if err != nil {
		return fmt.Errorf("broker %d, the active controller: %w", active, err)
	}
	r.pauses["the active controller"] = append(r.pauses["the active controller"], both[0])
	r.pauses["both at once"] = append(r.pauses["both at once"], both[1])
	fmt.Printf("round %d: a leader (broker %d) %d ms, the active controller (broker %d) %d ms, both at once %d ms\n",
		round+1, victim, pauses[0].Length.Milliseconds(), active, both[0].Length.Milliseconds(), both[1].Length.Milliseconds())
	return nil
}

// level waits until all replicas are in sync and gives each partition back to its preferred leader:
// each broker leads one. It tells who the active controller is and who leads each partition.
func (r *run) level() (active int32, leaders []int32, err error) {
	deadline := time.Now().Add(load.HealLimit)
	for time.Now().Before(deadline) {
		if err = r.Healed(time.Now()); err != nil {
			return -1, nil, err
		}
		all := make([]kafka.TopicPartition, load.Partitions)
		for i := range all {
			all[i] = kafka.TopicPartition{Topic: &r.Topic, Partition: int32(i)}
		}
		request := kafka.NewElectLeadersRequest(kafka.ElectionTypePreferred, all)
		if _, err = r.Admin.ElectLeaders(context.Background(), request, kafka.SetAdminRequestTimeout(3*time.Second)); err != nil {
			continue
		}
		if active, err = controller(r.Bootstrap); err != nil {
			continue
		}
		state, asked := r.State()
		if err = asked; err != nil {
			continue
		}
		leaders = nil
		for _, partition := range state {
			if !slices.Contains(leaders, partition.Leader) {
				leaders = append(leaders, partition.Leader)
			}
		}
		if len(leaders) == load.Partitions {
			// What was disturbed by the election is over.
			time.Sleep(300 * time.Millisecond)
			return active, leaders, nil
		}
		err = fmt.Errorf("the leaders are %v", leaders)
		time.Sleep(20 * time.Millisecond)
	}
	return -1, nil, fmt.Errorf("not level: %w", err)
}

func (r *run) send(broker int32, signal string) error {
	command := append(slices.Clone(r.signal[1:]), strconv.Itoa(int(broker)), signal)
	if out, err := exec.Command(r.signal[0], command...).CombinedOutput(); err != nil {
		return fmt.Errorf("signal: %w: %s", err, out)
	}
	return nil
}

// lose kills a broker, and tells the longest pause in each kind of lanes.
func (r *run) lose(broker int32, kinds ...func(*load.Lane) bool) (pauses []load.Pause, err error) {
	before := time.Now()
	r.Mark(before)
	if err := r.send(broker, "KILL"); err != nil {
		return nil, err
	}
	// Longer than the longest pause that is allowed: a lane that is acknowledged just after the kill
	// may still fall silent.
	time.Sleep(1500 * time.Millisecond)
	return r.pausesSince(before, kinds...)
}

func (r *run) pausesSince(before time.Time, kinds ...func(*load.Lane) bool) (pauses []load.Pause, err error) {
	for _, kind := range kinds {
		pause, err := r.Resumed(before.Add(1500*time.Millisecond), kind)
		if err != nil {
			return nil, err
		}
		pauses = append(pauses, pause)
	}
	return pauses, nil
}

// freeze stops a leader, and then the active controller's node, for ten seconds each.
func (r *run) freeze(limit time.Duration) (failed int) {
	for _, who := range []string{"a leader", "the active controller's node"} {
		what, err := r.freezeOne(who, limit)
		if err != nil {
			fmt.Printf("FAIL failover: %s is stopped for %s: %v\n", who, stopped, err)
			failed++
			continue
		}
		fmt.Printf("ok failover: %s is stopped for %s: %s\n", who, stopped, what)
	}
	return failed
}

func (r *run) freezeOne(who string, limit time.Duration) (string, error) {
	active, leaders, err := r.level()
	if err != nil {
		return "", err
	}
	victim := active
	if who == "a leader" {
		victim = leaders[slices.IndexFunc(leaders, func(id int32) bool { return id != active })]
	}
	before := time.Now()
	r.Mark(before)
	if err := r.send(victim, "STOP"); err != nil {
		return "", err
	}
	time.Sleep(stopped)
	gone := r.isGone(victim)
	if err := r.send(victim, "CONT"); err != nil {
		return "", err
	}
	if gone != nil {
		return "", gone
	}
	back := time.Now()
	pauses, err := r.pausesSince(before, func(*load.Lane) bool { return true })
	if err != nil {
		return "", err
	}
	if err := r.Healed(back); err != nil {
		return "", err
	}
	healed := time.Since(back)
	if pauses[0].Length > limit {
		return "", fmt.Errorf("produce paused for %s; the limit is %s", pauses[0].Length, limit)
	}
	return fmt.Sprintf("produce paused for %d ms, and it is in sync again %d ms after it went on", pauses[0].Length.Milliseconds(), healed.Milliseconds()), nil
}

// isGone says that the cluster has taken a broker out of every ISR and leadership.
func (r *run) isGone(broker int32) error {
	addresses := strings.Split(r.Bootstrap, ",") // in the order of their ids
	state, err := r.StateSeenBy(strings.Join(slices.Delete(addresses, int(broker), int(broker)+1), ","))
	if err != nil {
		return err
	}
	for _, one := range state {
		if one.Leader == broker || slices.Contains(one.Isrs, broker) {
			return fmt.Errorf("broker %d leads or is in sync after %s: partition %d: leader %d, ISR %v", broker, stopped, one.ID, one.Leader, one.Isrs)
		}
	}
	return nil
}

// starve lets many other processes have most of the CPU. Brokers are slow then, and none is taken
// for dead: nobody else leads in the end.
func (r *run) starve() (string, error) {
	active, _, err := r.level()
	if err != nil {
		return "", err
	}
	before, err := r.State()
	if err != nil {
		return "", err
	}
	ctx, enough := context.WithCancel(context.Background())
	defer enough()
	var greedy []*exec.Cmd
	for range greed * runtime.NumCPU() {
		busy := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
		if err := busy.Start(); err != nil {
			return "", err
		}
		greedy = append(greedy, busy)
	}
	time.Sleep(starved)
	enough()
	for _, busy := range greedy {
		busy.Wait() // killed: that is no error here
	}
	after, err := r.State()
	if err != nil {
		return "", err
	}
	now, err := controller(r.Bootstrap)
	if err != nil {
		return "", err
	}
	if now != active {
		return "", fmt.Errorf("the active controller was %d and is %d", active, now)
	}
	for i := range before {
		if before[i].Leader != after[i].Leader {
			return "", fmt.Errorf("partition %d was led by %d and is by %d", before[i].ID, before[i].Leader, after[i].Leader)
		}
	}
	return fmt.Sprintf("beside %d greedy processes nobody was given up", len(greedy)), nil
}
