package main

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

func joinAll(m *meter, body func()) outcome {
	for m.more() {
		var group sync.WaitGroup
		group.Add(round)
		for i := 0; i < round; i++ {
			go func() {
				body()
				group.Done()
			}()
		}
		group.Wait()
		m.count(round, true)
	}
	return m.result
}

func node(depth int, up chan<- uint64) {
	count := uint64(1)
	if depth > 0 {
		children := make(chan uint64, 2)
		go node(depth-1, children)
		go node(depth-1, children)
		count += <-children
		count += <-children
	}
	up <- count
}

func spawnTree(m *meter) outcome {
	const nodes = 2<<treeDepth - 1
	for m.more() {
		up := make(chan uint64, 1)
		go node(treeDepth, up)
		m.count(nodes, <-up == nodes)
	}
	return m.result
}

func yield(m *meter, workers uint64) outcome {
	for m.more() {
		var group sync.WaitGroup
		group.Add(int(2 * workers))
		for i := uint64(0); i < 2*workers; i++ {
			go func() {
				for i := 0; i < yields; i++ {
					runtime.Gosched()
				}
				group.Done()
			}()
		}
		group.Wait()
		m.count(2*workers*yields, true)
	}
	return m.result
}

func memory(count uint64) outcome {
	before := rssAnon()
	start := time.Now()
	var asleep sync.WaitGroup
	asleep.Add(int(count))
	for i := uint64(0); i < count; i++ {
		go func() {
			asleep.Done()
			time.Sleep(time.Hour)
		}()
	}
	asleep.Wait()
	ns := time.Since(start)
	time.Sleep(settle)
	return outcome{ops: count, ns: ns, rss: rssAnon() - before, ok: true}
}

func pingPong(m *meter, pairs uint64) outcome {
	trips := messages / pairs / 2
	for m.more() {
		sums := make(chan uint64, 2*pairs)
		for i := uint64(0); i < pairs; i++ {
			ping, pong := make(chan uint64, 1), make(chan uint64, 1)
			go func() {
				sum := uint64(0)
				for item := range ping {
					pong <- item
					sum += item
				}
				sums <- sum
			}()
			go func() {
				sum := uint64(0)
				for item := uint64(0); item < trips; item++ {
					ping <- item
					sum += <-pong
				}
				close(ping)
				sums <- sum
			}()
		}
		sum := uint64(0)
		for i := uint64(0); i < 2*pairs; i++ {
			sum += <-sums
		}
		m.count(messages, sum == 2*pairs*plainSum(trips))
	}
	return m.result
}

func fanIn(m *meter) outcome {
	for m.more() {
		queue := make(chan uint64, room)
		var producers sync.WaitGroup
		producers.Add(fan)
		for i := uint64(0); i < fan; i++ {
			go func(producer uint64) {
				for item := producer; item < items; item += fan {
					queue <- item
				}
				producers.Done()
			}(i)
		}
		go func() {
			producers.Wait()
			close(queue)
		}()
		sum := uint64(0)
		for item := range queue {
			sum += item
		}
		m.count(items, sum == plainSum(items))
	}
	return m.result
}

func fanOut(m *meter, count, want uint64, work func(uint64) uint64) outcome {
	for m.more() {
		queue := make(chan uint64, room)
		sums := make(chan uint64, fan)
		for i := 0; i < fan; i++ {
			go func() {
				sum := uint64(0)
				for item := range queue {
					sum += work(item)
				}
				sums <- sum
			}()
		}
		for item := uint64(0); item < count; item++ {
			queue <- item
		}
		close(queue)
		sum := uint64(0)
		for i := 0; i < fan; i++ {
			sum += <-sums
		}
		m.count(count, sum == want)
	}
	return m.result
}

func mutex(m *meter) outcome {
	for m.more() {
		var lock sync.Mutex
		var group sync.WaitGroup
		sum := 0
		group.Add(lockers)
		for i := 0; i < lockers; i++ {
			go func() {
				for i := 0; i < turns; i++ {
					lock.Lock()
					sum++
					lock.Unlock()
				}
				group.Done()
			}()
		}
		group.Wait()
		m.count(lockers*turns, sum == lockers*turns)
	}
	return m.result
}

func timersCancel(m *meter, count int) outcome {
	for m.more() {
		random := lcg(1)
		timers := make([]*time.Timer, 0, count)
		for i := 0; i < count; i++ {
			after := cancelFrom + time.Duration(random.below(uint64(cancelSpan)))
			timers = append(timers, time.AfterFunc(after, func() { panic("stopped") }))
		}
		stopped := 0
		for _, timer := range timers {
			if timer.Stop() {
				stopped++
			}
		}
		m.count(uint64(count), stopped == count)
	}
	return m.result
}

func timersExpire(count uint64, span time.Duration) outcome {
	start := cpuTime()
	var left atomic.Int64
	left.Store(int64(count))
	all := make(chan struct{})
	random := lcg(1)
	for i := uint64(0); i < count; i++ {
		time.AfterFunc(span+time.Duration(random.below(uint64(span))), func() {
			if left.Add(-1) == 0 {
				close(all)
			}
		})
	}
	<-all
	return outcome{ops: count, ns: cpuTime() - start, ok: true}
}
