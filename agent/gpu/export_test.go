package gpu

import "os"

// Immortal makes children that cannot be killed, until the returned function is called.
func Immortal() (restore func()) {
	was := killProcess
	killProcess = func(*os.Process) error { return nil }
	return func() { killProcess = was }
}

// KillAbandoned ends the children that were left behind.
func KillAbandoned(s *Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.abandoned {
		_ = c.cmd.Process.Kill()
	}
}
