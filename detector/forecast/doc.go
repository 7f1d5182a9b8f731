// Package forecast projects when a run may cross a limit.
package forecast
