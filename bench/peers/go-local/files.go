package main

import (
	"fmt"
	"os"
)

const (
	page  = 4096
	chunk = 128 * 1024
	reads = 8192
)

func isRight(bytes []byte, at int64) bool {
	for i := 0; i < len(bytes); i += page {
		number := uint64(at+int64(i)) / page
		if bytes[i] != byte(number*0x9E3779B97F4A7C15>>56) {
			return false
		}
	}
	return true
}

// isWhole reads a file up to end, and so also brings it into the page cache.
func isWhole(file *os.File, end int64) bool {
	buf := make([]byte, chunk)
	ok := true
	for at := int64(0); at < end; at += chunk {
		_, err := file.ReadAt(buf, at)
		ok = ok && err == nil && isRight(buf, at)
	}
	return ok
}

func open(o *options) (*os.File, int64) {
	file, err := os.Open(o.file)
	if err != nil {
		panic(err)
	}
	info, err := file.Stat()
	if err != nil {
		panic(err)
	}
	if !isWhole(file, info.Size()) {
		panic("not the right file")
	}
	return file, info.Size()
}

func fileRandom(o *options, depth uint64) outcome {
	file, size := open(o)
	seed := lcg(0)
	m := newMeter(o)
	for m.more() {
		results := make(chan bool, depth)
		for i := uint64(0); i < depth; i++ {
			seed++
			go func(random lcg) {
				buf := make([]byte, page)
				ok := true
				for i := uint64(0); i < reads/depth; i++ {
					at := int64(random.below(uint64(size)/page)) * page
					_, err := file.ReadAt(buf, at)
					ok = ok && err == nil && isRight(buf, at)
				}
				results <- ok
			}(seed)
		}
		ok := true
		for i := uint64(0); i < depth; i++ {
			ok = <-results && ok
		}
		m.count(reads, ok)
	}
	return m.result
}

func fileSequential(o *options) outcome {
	file, size := open(o)
	m := newMeter(o)
	for m.more() {
		m.count(uint64(size)/chunk, isWhole(file, size))
	}
	return m.result
}

func fileCopy(o *options) outcome {
	from, size := open(o)
	size /= 4
	to, err := os.CreateTemp("", fmt.Sprintf("towpath-bench-copy-%d-", os.Getpid()))
	if err != nil {
		panic(err)
	}
	os.Remove(to.Name())
	buf := make([]byte, chunk)
	m := newMeter(o)
	for m.more() {
		ok := true
		for at := int64(0); at < size; at += chunk {
			_, readErr := from.ReadAt(buf, at)
			_, writeErr := to.WriteAt(buf, at)
			ok = ok && readErr == nil && writeErr == nil
		}
		m.count(uint64(size)/chunk, ok)
	}
	result := m.result
	result.ok = result.ok && isWhole(to, size)
	return result
}
