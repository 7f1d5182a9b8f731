package probe

import "testing"

func TestCountsLocked(t *testing.T) {
	for release, want := range map[string]bool{
		"4.18.0-553.el8_10.x86_64": true, "5.4.0-200-generic": true, "5.10.0-32-cloud-amd64": true, "5.11": false, "5.11-rc1": false,
		"5.14.0-427.el9.x86_64": false, "6.1.0": false, "10.2.0": false, "": false, "x.y": false, "5": false,
	} {
		if got := countsLocked(release); got != want {
			t.Errorf("%q: %v, want %v", release, got, want)
		}
	}
}
