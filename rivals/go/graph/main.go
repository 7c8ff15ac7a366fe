// The graph of `spanheap demo graph` in Go: places for nodes, each with three edges and a payload, replaced at random.
// A node that is replaced loses its edges and its payload; it lives on while others lead to it, which as many do as there
// are places. The arguments are the number of nodes, the bytes that live, the goroutines and the seconds.
package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const (
	bucketSize = 500
	batch      = 16
	// Of a place: what leads to its node, the node, and one that was there before.
	placeBytes = 8 + 2*48
)

type node struct {
	edges        [3]atomic.Pointer[node]
	payload      atomic.Pointer[uint64] // the first of its words
	number, mark uint64
}

type bucket struct {
	places [bucketSize]atomic.Pointer[node]
}

func markOf(number uint64) uint64 {
	n := number * 0x9E3779B97F4A7C15
	return n<<29 | n>>35
}

func put(buckets []*bucket, place int, number uint64, payload int, random *rand.Rand) {
	n := &node{number: number, mark: markOf(number)}
	if payload > 0 {
		words := make([]uint64, payload)
		for i := range words {
			words[i] = number
		}
		n.payload.Store(&words[0])
	}
	for i := range n.edges {
		other := random.IntN(len(buckets) * bucketSize)
		n.edges[i].Store(buckets[other/bucketSize].places[other%bucketSize].Load())
	}
	buckets[place/bucketSize].places[place%bucketSize].Store(n)
}

func check(n *node, payload int) {
	wrong := n.mark != markOf(n.number)
	if words := n.payload.Load(); words != nil {
		wrong = wrong || unsafe.Slice(words, payload)[payload-1] != n.number
	}
	if wrong {
		panic("a node carries the wrong mark")
	}
}

func number(at, otherwise int) int {
	if len(os.Args) > at {
		if n, err := strconv.Atoi(os.Args[at]); err == nil {
			return n
		}
	}
	return otherwise
}

// Collections at the end, when nothing changes any more.
const forced = 3

// The bytes that were live after the last collection.
func liveBytes() uint64 {
	figures := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(figures)
	return figures[0].Value.Uint64()
}

// The processor time that this process has had.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// Collects several times: the processor time is the collector's alone then. Returns it, and the bytes that were marked.
func force() (time.Duration, uint64) {
	began, marked := processorTime(), uint64(0)
	for range forced {
		runtime.GC()
		marked += liveBytes()
	}
	return processorTime() - began, marked
}

func main() {
	objects, live := number(1, 1000000), number(2, 100<<20)
	threads, seconds := max(number(3, 1), 1), number(4, 10)
	payload := max(max(live/objects-placeBytes, 0)/8-1, 0)
	random := rand.New(rand.NewPCG(7, 7))
	var buckets []*bucket
	for i := range objects {
		if i%bucketSize == 0 {
			buckets = append(buckets, &bucket{})
		}
		put(buckets, i, uint64(i), payload, random)
	}
	var stop atomic.Bool
	var numbers, operations atomic.Uint64
	numbers.Store(uint64(objects))
	var before debug.GCStats
	debug.ReadGCStats(&before)
	began := time.Now()
	var all sync.WaitGroup
	for at := range threads {
		all.Add(1)
		go func() {
			defer all.Done()
			random := rand.New(rand.NewPCG(uint64(at)+1, 1))
			for !stop.Load() {
				for range batch {
					place := random.IntN(len(buckets) * bucketSize)
					old := buckets[place/bucketSize].places[place%bucketSize].Load()
					if old == nil {
						continue
					}
					for i := range old.edges {
						if to := old.edges[i].Load(); to != nil {
							check(to, payload)
						}
					}
					check(old, payload)
					for i := range old.edges {
						old.edges[i].Store(nil)
					}
					old.payload.Store(nil)
					put(buckets, place, numbers.Add(1), payload, random)
				}
				operations.Add(batch)
			}
		}()
	}
	time.Sleep(time.Duration(seconds) * time.Second)
	stop.Store(true)
	all.Wait()
	elapsed := time.Since(began).Seconds()
	processor, marked := force()
	var stats debug.GCStats
	debug.ReadGCStats(&stats)
	longest := time.Duration(0)
	for _, pause := range stats.Pause {
		longest = max(longest, pause)
	}
	fmt.Printf("operations_per_second %.0f collections %d longest_pause_ns %d forced_cpu_ns %d forced_marked_bytes %d all_collections %d procs %d\n",
		float64(operations.Load())/elapsed, stats.NumGC-before.NumGC-forced, longest.Nanoseconds(), processor.Nanoseconds(), marked,
		stats.NumGC, runtime.GOMAXPROCS(0))
	runtime.KeepAlive(buckets)
}
