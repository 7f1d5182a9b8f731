package collector

// step names a point between two steps of the protocol, where a test may have the process end.
type step string

// The steps, each reached after what it names.
const (
	stepLease    step = "lease"     // the lease is taken
	stepFenced   step = "fenced"    // the former holder is fenced off
	stepConsumer step = "consumer"  // deliveries have begun
	stepFetched  step = "fetched"   // a range is read
	stepIntent   step = "intent"    // and recorded
	stepInsert   step = "insert "   // with a table: right before its insert
	stepInserted step = "inserted " // with a table: it is stored, and that was not noted
	stepAdvanced step = "advanced"  // the position is beyond the range
	stepAcking   step = "acking"    // half of it is acknowledged
	stepAcked    step = "acked"
	stepMarked   step = "marked" // commit marks are out
)

// reach says that a step is reached. An error ends the hold.
func (c *Collector) reach(s step) error {
	if c.reached == nil {
		return nil
	}
	return c.reached(string(s))
}
