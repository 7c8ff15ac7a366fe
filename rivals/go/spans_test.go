// The half of the measurement that may import testing: the median of many short runs, one line for each case.

package runtime_test

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sort"
	"testing"
)

func TestSpanPairs(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	runtime.GC()
	const rounds, pairs = 201, 6400
	for _, held := range []int{1, 16} {
		for _, npages := range []uintptr{1, 2, 4, 8} {
			times := make([]float64, rounds)
			for i := range times {
				times[i] = float64(runtime.SpanPairs(npages, held, pairs)) / pairs
			}
			sort.Float64s(times)
			fmt.Printf("span-pair of=go pages=%d held=%d ns=%.1f best=%.1f\n", npages, held, times[rounds/2], times[0])
		}
	}
}
