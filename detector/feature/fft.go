package feature

import (
	"math"
	"math/bits"
)

// maxPoints is how many points a spectrum is made of at most.
const maxPoints = 512

// twiddle holds exp(-2 pi i k / maxPoints): constants, made once.
var twiddle = func() (w [maxPoints / 2]struct{ re, im float64 }) {
	for k := range w {
		w[k].im, w[k].re = math.Sincos(-2 * math.Pi * float64(k) / maxPoints)
	}
	return w
}()

// transform is the discrete Fourier transform in place of len(re) points, a power of two and at most maxPoints. Two
// real signals at once cost what one does: one in re, the other in im.
func transform(re, im []float64) {
	n := len(re)
	im = im[:n]
	shift := 64 - bits.Len(uint(n)-1)
	for i := range n {
		if j := int(bits.Reverse64(uint64(i)) >> shift); j > i {
			re[i], re[j] = re[j], re[i]
			im[i], im[j] = im[j], im[i]
		}
	}
	for i := 0; i+1 < n; i += 2 {
		re[i], re[i+1] = re[i]+re[i+1], re[i]-re[i+1]
		im[i], im[i+1] = im[i]+im[i+1], im[i]-im[i+1]
	}
	for size := 4; size <= n; size *= 2 {
		half, stride := size/2, maxPoints/size
		for from := 0; from < n; from += size {
			lr, li := re[from:from+half], im[from:from+half]
			hr, hi := re[from+half:from+size], im[from+half:from+size]
			li, hr, hi = li[:len(lr)], hr[:len(lr)], hi[:len(lr)]
			t := 0
			for k := range lr {
				w := &twiddle[t&(maxPoints/2-1)]
				t += stride
				a, b := hr[k]*w.re-hi[k]*w.im, hr[k]*w.im+hi[k]*w.re
				hr[k], hi[k] = lr[k]-a, li[k]-b
				lr[k] += a
				li[k] += b
			}
		}
	}
}

// halves gives the power of the two signals that were transformed together, for frequencies 0 to n/2 - 1.
func halves(re, im, a, b []float64) {
	n := len(re)
	a[0], b[0] = re[0]*re[0], im[0]*im[0]
	for k := 1; k < n/2; k++ {
		pr, mr := (re[k]+re[n-k])/2, (re[k]-re[n-k])/2
		pi, mi := (im[k]+im[n-k])/2, (im[k]-im[n-k])/2
		a[k], b[k] = pr*pr+mi*mi, pi*pi+mr*mr
	}
}

// choose returns the k-th least of v (from 0), which it reorders.
func choose(v []float64, k int) float64 {
	lo, hi := 0, len(v)-1
	for lo < hi {
		p := v[(lo+hi)/2]
		i, j := lo, hi
		for i <= j {
			for v[i] < p {
				i++
			}
			for v[j] > p {
				j--
			}
			if i <= j {
				v[i], v[j] = v[j], v[i]
				i, j = i+1, j-1
			}
		}
		switch {
		case k <= j:
			hi = j
		case k >= i:
			lo = i
		default:
			return v[k]
		}
	}
	return v[k]
}
