// Package workload says what kind of work an activity is, with probability and reasons.
package workload
