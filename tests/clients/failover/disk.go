package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	sampled = 10 * time.Millisecond
	// A device that completes nothing for so long, with requests in flight, stands still: no fsync
	// ends then, on any broker.
	stillness = 100 * time.Millisecond
)

// A disk watches the block device below a folder: all brokers here share it, so that its standstills
// are those of the whole cluster, whoever leads.
type disk struct {
	statistics string // the file that the kernel tells them in; empty: no device is known

	mu     sync.Mutex
	still  span   // in which the device has completed nothing, up to the last sample
	stills []span // all that were long enough before
}

type span struct{ from, to time.Time }

// within is the part of the span between two times.
func (s span) within(from, to time.Time) time.Duration {
	if s.from.After(from) {
		from = s.from
	}
	if s.to.Before(to) {
		to = s.to
	}
	return max(0, to.Sub(from))
}

// counts is what a device has completed since it was made, and how much it is at.
type counts struct{ completed, inFlight uint64 }

// watch starts to sample, for as long as the program runs. A folder on no block device (in memory, on
// a network) has a disk that is never seen to stand still.
func watch(folder string) (*disk, error) {
	var at syscall.Stat_t
	if err := syscall.Stat(folder, &at); err != nil {
		return nil, fmt.Errorf("%s: %w", folder, err)
	}
	// Major and minor number, as makedev(3) puts them together.
	major, minor := at.Dev>>8&0xfff|at.Dev>>32&^0xfff, at.Dev&0xff|at.Dev>>12&^0xff
	d := &disk{statistics: fmt.Sprintf("/sys/dev/block/%d:%d/stat", major, minor)}
	before, err := readCounts(d.statistics)
	if errors.Is(err, fs.ErrNotExist) {
		return &disk{}, nil
	}
	if err != nil {
		return nil, err
	}
	go d.sample(before)
	return d, nil
}

// readCounts reads the statistics that Documentation/block/stat.rst of Linux describes.
func readCounts(file string) (counts, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return counts{}, err
	}
	var numbers []uint64
	for _, field := range strings.Fields(string(text)) {
		number, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return counts{}, fmt.Errorf("%s: %w", file, err)
		}
		numbers = append(numbers, number)
	}
	if len(numbers) < 11 {
		return counts{}, fmt.Errorf("%s: %d fields", file, len(numbers))
	}
	c := counts{completed: numbers[0] + numbers[4], inFlight: numbers[8]}
	for _, later := range []int{11, 15} { // discards and flushes, on kernels that count them
		if later < len(numbers) {
			c.completed += numbers[later]
		}
	}
	return c, nil
}

// sample follows the device. What was in flight at one sample is so at the next when nothing was
// completed between them: a sample that comes late shows less of a standstill, never more.
func (d *disk) sample(before counts) {
	still := span{time.Now(), time.Now()}
	for range time.Tick(sampled) {
		asked := time.Now()
		now, err := readCounts(d.statistics)
		if err == nil && now.completed == before.completed && before.inFlight > 0 {
			still.to = asked
			d.mu.Lock()
			d.still = still
			d.mu.Unlock()
			continue
		}
		d.mu.Lock()
		if still.to.Sub(still.from) >= stillness {
			d.stills = append(d.stills, still)
		}
		d.still = span{}
		d.mu.Unlock()
		before, still = now, span{time.Now(), time.Now()} // nothing is in flight after an error
	}
}

// stood is how long the device stood still between two times.
func (d *disk) stood(from, to time.Time) (long time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, still := range append(slices.Clone(d.stills), d.still) {
		if still.to.Sub(still.from) >= stillness {
			long += still.within(from, to)
		}
	}
	return long
}
