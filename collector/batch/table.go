package batch

import (
	"fmt"
	"strings"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// kindTable says where the rows of a kind go. The order is the order of inserts, and of
// store.BatchKinds.
type kindTable struct {
	kind  wire.Kind
	table string
	// ts is the field that holds a row's event time, 0: none. Sampled kinds make cells. That of
	// earlier kinds may lie long before the row was written: when something began.
	ts               uint8
	sampled, earlier bool
}

var kindTables = [...]kindTable{
	{wire.KindGPU, store.TableGPUSamples, 1, true, false},
	{wire.KindHost, store.TableHostSamples, 1, true, false},
	{wire.KindFabric, store.TableFabricSamples, 1, true, false},
	{wire.KindFlow, store.TableFlowSamples, 1, true, false},
	{wire.KindProcess, store.TableProcessEvents, 1, false, true},
	{wire.KindCollective, store.TableCollectiveSamples, 1, true, false},
	{wire.KindInventory, store.TableInventory, 0, false, false},
	{wire.KindAllocation, store.TableAllocations, 0, false, false},
	{wire.KindOrder, store.TableOrders, 0, false, false},
	{wire.KindDevice, store.TableGPUDevices, 1, false, false},
	{wire.KindStatus, store.TableInstrumentStatus, 1, false, false},
	{wire.KindHealth, store.TableGPUHealth, 1, false, false},
	{wire.KindEvent, store.TableGPUEvents, 1, false, true},
	{wire.KindInstance, store.TableGPUInstances, 1, false, false},
	{wire.KindHold, store.TableGPUHolds, 1, false, true},
	{wire.KindTCP, store.TableTCPSamples, 1, true, false},
	{wire.KindCheckpoint, store.TableCheckpoints, 1, false, true},
	{wire.KindRDMA, store.TableRDMAObjects, 1, false, false},
	{wire.KindOutOfBand, store.TableBMCSamples, 1, true, false},
	{wire.KindFact, store.TableNodeFacts, 1, false, false},
}

// target is the block of a kind and the way into it.
type target struct {
	kindTable
	block  *store.RawBlock
	column [256]int16 // by field id; -1: the contract has no such field
	text   [256]bool  // by field id: a string field
	most   int        // rows at which the block is full
	part   int        // blocks of this table flushed in the range so far
}

func newTarget(k kindTable) (*target, error) {
	block, err := store.NewRawBlock(k.table)
	if err != nil {
		return nil, fmt.Errorf("prepare kind %s: %w", k.kind, err)
	}
	t := &target{kindTable: k, block: block}
	for i := range t.column {
		t.column[i] = -1
	}
	for _, f := range wire.Schema[k.kind] {
		c := block.Column(f.Name)
		if c < 0 {
			return nil, fmt.Errorf("prepare kind %s: table %s has no column %s", k.kind, k.table, f.Name)
		}
		t.column[f.ID] = int16(c)
		t.text[f.ID] = f.Type == wire.Str
	}
	return t, nil
}

// add appends a table of a batch. It returns how many values did not fit their columns.
func (t *target) add(w *wire.Table, m store.RawMeta) (outside int) {
	t.block.Begin(m, w.Rows)
	for i := range w.Columns {
		c := &w.Columns[i]
		column := int(t.column[c.Field])
		if column < 0 {
			continue // the decoder counts columns of a newer contract
		}
		if t.text[c.Field] {
			t.block.Strings(column, c.Dict, c.Ref, c.Present)
		} else {
			outside += t.block.Ints(column, c.Int, c.Present)
		}
	}
	t.block.End()
	return outside
}

// sourceTexts remembers the text for each combination of columns and sources: a fleet has
// a handful.
type sourceTexts struct {
	texts map[string]string
	key   []byte
}

// maxSourceTexts bounds the memory against a sender that never repeats a combination.
const maxSourceTexts = 4096

func (s *sourceTexts) text(w *wire.Table) string {
	s.key = append(s.key[:0], byte(w.Kind))
	for i := range w.Columns {
		s.key = append(s.key, w.Columns[i].Field, byte(w.Columns[i].Source))
	}
	if t, ok := s.texts[string(s.key)]; ok {
		return t
	}
	if s.texts == nil || len(s.texts) >= maxSourceTexts {
		s.texts = map[string]string{}
	}
	t := describeSources(w)
	s.texts[string(s.key)] = t
	return t
}

// describeSources writes "source" where all columns share one, else
// "source:column,column;source:column". Key columns say nothing of an instrument.
func describeSources(w *wire.Table) string {
	var order []wire.Source
	names := map[wire.Source]string{}
	for i := range w.Columns {
		c := &w.Columns[i]
		f, ok := wire.FieldOf(w.Kind, c.Field)
		if !ok || f.Key {
			continue
		}
		if _, seen := names[c.Source]; !seen {
			order = append(order, c.Source)
			names[c.Source] = f.Name
		} else {
			names[c.Source] += "," + f.Name
		}
	}
	switch len(order) {
	case 0:
		return wire.SourceUnknown.String()
	case 1:
		return order[0].String()
	}
	parts := make([]string, len(order))
	for i, s := range order {
		parts[i] = s.String() + ":" + names[s]
	}
	return strings.Join(parts, ";")
}
