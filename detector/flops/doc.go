// Package flops estimates executed and model FLOPs of GPU intervals as 90 % intervals.
package flops
