// Package nvmlstub is fake GPUs.
package nvmlstub
