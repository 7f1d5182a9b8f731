package collector

// OnStep has f called at each step of the protocol, before Run; its error ends the hold.
func (c *Collector) OnStep(f func(step string) error) { c.reached = f }
