package report

func (v *view) indicators([]runView) {}
