// Package drawn makes recordings with truth in which every physical constant is drawn
// from a wide prior, so that a detector is judged on fleets that nobody fitted it to.
package drawn
