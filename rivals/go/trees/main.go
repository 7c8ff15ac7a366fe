// Binary trees as `spanheap demo trees` grows them: a stretch tree, a long-lived one, and many short-lived ones that
// are shared out among goroutines. The arguments are the depth and the number of goroutines.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"
)

const smallest = 4

type tree struct{ left, right *tree }

func grow(depth int) *tree {
	if depth == 0 {
		return &tree{}
	}
	return &tree{grow(depth - 1), grow(depth - 1)}
}

func (t *tree) count() int {
	nodes := 1
	if t.left != nil {
		nodes += t.left.count()
	}
	if t.right != nil {
		nodes += t.right.count()
	}
	return nodes
}

func many(trees, depth, threads int) int {
	counts := make([]int, threads)
	var all sync.WaitGroup
	for at := range threads {
		all.Add(1)
		go func() {
			defer all.Done()
			nodes := 0
			for range trees*(at+1)/threads - trees*at/threads {
				nodes += grow(depth).count()
			}
			counts[at] = nodes
		}()
	}
	all.Wait()
	nodes := 0
	for _, count := range counts {
		nodes += count
	}
	return nodes
}

func number(at, otherwise int) int {
	if len(os.Args) > at {
		if n, err := strconv.Atoi(os.Args[at]); err == nil {
			return n
		}
	}
	return otherwise
}

func main() {
	depth, threads := max(number(1, 16), 6), max(number(2, 1), 1)
	began := time.Now()
	fmt.Printf("stretch tree of depth %d\t check: %d\n", depth+1, grow(depth+1).count())
	long := grow(depth)
	for d := smallest; d <= depth; d += 2 {
		trees := 1 << (depth - d + smallest)
		fmt.Printf("%d\t trees of depth %d\t check: %d\n", trees, d, many(trees, d, threads))
	}
	fmt.Printf("long lived tree of depth %d\t check: %d\n", depth, long.count())
	var stats debug.GCStats
	debug.ReadGCStats(&stats)
	longest := time.Duration(0)
	for _, pause := range stats.Pause {
		longest = max(longest, pause)
	}
	fmt.Fprintf(os.Stderr, "seconds %.3f collections %d longest_pause_ns %d procs %d\n",
		time.Since(began).Seconds(), stats.NumGC, longest.Nanoseconds(), runtime.GOMAXPROCS(0))
}
