// The half of the measurement that lies in package runtime: it calls the page heap where it may be called, on
// the system stack. `rivals gospans` lays it over the toolchain's sources as a file of the test.

package runtime

// SpanPairs allocates and frees a manual span of npages, count times, and returns nanoseconds. With held > 1 it
// allocates that many spans and then frees them, oldest first; count is still the number of pairs. The switch to
// the system stack is not in the time.
func SpanPairs(npages uintptr, held, count int) int64 {
	var spans [64]*mspan
	var spent int64
	systemstack(func() {
		start := nanotime()
		for i := 0; i < count; i += held {
			for k := 0; k < held; k++ {
				spans[k] = mheap_.allocManual(npages, spanAllocWorkBuf)
			}
			for k := 0; k < held; k++ {
				mheap_.freeManual(spans[k], spanAllocWorkBuf)
			}
		}
		spent = nanotime() - start
	})
	return spent
}
