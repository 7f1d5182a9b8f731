// Package threshold holds threshold profiles as dated data and compares estimates with them.
package threshold
