// The scenarios that need no network, in Go: the same work, rounds and output as the engines of the crate that builds this.
package main

import (
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	round      = 10_000
	treeDepth  = 13
	yields     = 10_000
	messages   = 100_000
	items      = 100_000
	workItems  = 10_000
	fan        = 1000
	room       = 256
	lockers    = 4
	turns      = 100_000
	armed      = 1_000_000
	steps      = 10_000
	settle     = 50 * time.Millisecond
	cancelFrom = time.Minute
	cancelSpan = time.Hour
	expireSpan = time.Second
)

type options struct {
	scenario string
	workers  uint64
	quick    bool
	file     string
}

func (o *options) scale(full uint64) uint64 {
	if o.quick {
		return full / 10
	}
	return full
}

type outcome struct {
	ops uint64
	ns  time.Duration
	rss uint64
	ok  bool
}

func main() {
	o := options{scenario: os.Args[1]}
	for i := 2; i < len(os.Args); i++ {
		switch os.Args[i] {
		case "--quick":
			o.quick = true
		case "--workers":
			i++
			o.workers, _ = strconv.ParseUint(os.Args[i], 10, 32)
		case "--file":
			i++
			o.file = os.Args[i]
		}
	}
	result := run(&o)
	rss := "null"
	if result.rss > 0 {
		rss = strconv.FormatUint(result.rss, 10)
	}
	fmt.Printf("{\"ops\": %d, \"ns\": %d, \"rss_bytes\": %s, \"ok\": %t}\n", result.ops, result.ns, rss, result.ok)
}

func run(o *options) outcome {
	m := newMeter(o)
	switch o.scenario {
	case "spawn", "spawn-join":
		// A goroutine has no handle: waiting for a group is both.
		return joinAll(m, func() {})
	case "spawn-tree":
		return spawnTree(m)
	case "yield":
		return yield(m, o.workers)
	case "sleep":
		return joinAll(m, func() { time.Sleep(10 * time.Millisecond) })
	case "sleep-0":
		return joinAll(m, func() { time.Sleep(0) })
	case "memory-100k":
		return memory(o.scale(100_000))
	case "memory-1m":
		return memory(o.scale(1_000_000))
	case "ping-pong-1":
		return pingPong(m, 1)
	case "ping-pong-100":
		return pingPong(m, 100)
	case "fan-in":
		return fanIn(m)
	case "fan-out":
		return fanOut(m, items, plainSum(items), func(item uint64) uint64 { return item })
	case "fan-out-work":
		return fanOut(m, workItems, workSum(workItems), work)
	case "mutex":
		return mutex(m)
	case "timers-cancel":
		return timersCancel(m, int(o.scale(armed)))
	case "timers-expire":
		count := o.scale(armed)
		span := time.Duration(o.scale(uint64(expireSpan)))
		timersExpire(count/10, span/10)
		return timersExpire(count, span)
	case "file-rand-1":
		return fileRandom(o, 1)
	case "file-rand-32":
		return fileRandom(o, 32)
	case "file-seq":
		return fileSequential(o)
	case "file-copy":
		return fileCopy(o)
	}
	fmt.Fprintf(os.Stderr, "no scenario is called %q\n", o.scenario)
	os.Exit(3)
	panic("unreachable")
}

// meter repeats a round of a scenario: to warm up, then for long enough to be measured.
type meter struct {
	span    time.Duration
	start   time.Time
	warming bool
	result  outcome
}

func newMeter(o *options) *meter {
	span := time.Duration(o.scale(uint64(400 * time.Millisecond)))
	return &meter{span: span, start: time.Now(), warming: true, result: outcome{ok: true}}
}

func (m *meter) more() bool {
	m.result.ns = time.Since(m.start)
	if m.warming && m.result.ops > 0 && m.result.ns >= m.span/4 {
		m.warming = false
		m.result.ops = 0
		m.start = time.Now()
		return true
	}
	return m.warming || m.result.ns < m.span
}

func (m *meter) count(ops uint64, ok bool) {
	m.result.ops += ops
	m.result.ok = m.result.ok && ok
}

type lcg uint64

const (
	factor  = 6364136223846793005
	summand = 1442695040888963407
)

func (l *lcg) step() uint64 {
	*l = *l*factor + summand
	return uint64(*l)
}

func (l *lcg) below(limit uint64) uint64 {
	high, _ := bits.Mul64(l.step(), limit)
	return high
}

func work(item uint64) uint64 {
	l := lcg(item)
	for i := 0; i < steps; i++ {
		l.step()
	}
	return uint64(l)
}

// workSum is the sum of work over the items below n: all steps together are one affine map.
func workSum(n uint64) uint64 {
	a, c := uint64(1), uint64(0)
	for i := 0; i < steps; i++ {
		a, c = a*factor, c*factor+summand
	}
	return a*plainSum(n) + c*n
}

func plainSum(n uint64) uint64 {
	return n * (n - 1) / 2
}

func rssAnon() uint64 {
	status, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(status), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "RssAnon:" {
			kib, _ := strconv.ParseUint(fields[1], 10, 64)
			return kib * 1024
		}
	}
	panic("/proc/self/status has RssAnon")
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
