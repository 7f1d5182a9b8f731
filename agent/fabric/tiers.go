package fabric

import (
	"errors"
	"fmt"
	"math"
	"syscall"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// reading is a value of a port: a counter, or the sum of two.
type reading struct {
	field uint8
	scale int64      // octets, or whatever it is, that a count stands for
	files [2]counter // the second is empty where there is one
	value int64      // -1: not known
}

func (r *reading) close() {
	r.files[0].close()
	r.files[1].close()
}

// put sets the value, if it is known.
func (r *reading) put(b *wire.Builder) {
	if r.value >= 0 {
		b.SetInt(r.field, r.value)
	}
}

// read takes a counter whose file stays open.
func (f *Fabric) read(r *reading) error {
	r.value = -1
	v, err := r.files[0].read(f.buf[:])
	if err != nil {
		return err
	}
	if r.files[1].path != "" {
		w, err := r.files[1].read(f.buf[:])
		if err != nil {
			return err
		}
		if v > math.MaxInt64-w {
			return errValue
		}
		v += w
	}
	if v > math.MaxInt64/r.scale {
		return errValue
	}
	r.value = v * r.scale
	return nil
}

// named is a field and the names of the files that may hold it, the best first. Two names
// with a plus between them are summed.
type named struct {
	field uint8
	scale int64
	names []string
}

// RDMA ports, below ports/N. The comment says whose driver has the name.
var (
	rdmaTx = named{fieldTx, 4, []string{
		"counters_ext/port_xmit_data_64", // before Linux 4.5
		"counters/port_xmit_data",        // mlx5, mlx4, hfi1, newer bnxt_re
	}}
	rdmaRx        = named{fieldRx, 4, []string{"counters_ext/port_rcv_data_64", "counters/port_rcv_data"}}
	rdmaTxOctets  = named{fieldTx, 1, []string{"hw_counters/tx_bytes", "hw_counters/ip4OutOctets+hw_counters/ip6OutOctets"}} // efa, bnxt_re; irdma
	rdmaRxOctets  = named{fieldRx, 1, []string{"hw_counters/rx_bytes", "hw_counters/ip4InOctets+hw_counters/ip6InOctets"}}
	rdmaTxPackets = named{fieldTxPackets, 1, []string{"counters/port_xmit_packets", "hw_counters/tx_pkts", "hw_counters/ip4OutPkts+hw_counters/ip6OutPkts"}}
	rdmaRxPackets = named{fieldRxPackets, 1, []string{"counters/port_rcv_packets", "hw_counters/rx_pkts", "hw_counters/ip4InPkts+hw_counters/ip6InPkts"}}
)

var rdmaSlow = []named{
	{fieldXmitWait, 1, []string{"counters/port_xmit_wait"}},                                                                                  // 32 bits, stops at the top
	{fieldCNPSent, 1, []string{"hw_counters/np_cnp_sent", "hw_counters/tx_cnp_pkts", "hw_counters/cnpSent"}},                                 // mlx5; bnxt_re; irdma
	{fieldCNPHandled, 1, []string{"hw_counters/rp_cnp_handled", "hw_counters/rx_cnp_pkts", "hw_counters/cnpHandled"}},                        // the same
	{fieldECNMarked, 1, []string{"hw_counters/np_ecn_marked_roce_packets", "hw_counters/rx_ecn_marked_pkts", "hw_counters/RxECNMrkd"}},       // the same
	{fieldOutOfSequence, 1, []string{"hw_counters/out_of_sequence", "hw_counters/oos_drop_count"}},                                           // mlx5; bnxt_re
	{fieldAckTimeouts, 1, []string{"hw_counters/local_ack_timeout_err", "hw_counters/to_retransmits", "hw_counters/retrans_timeout_events"}}, // mlx5; bnxt_re; efa
	{fieldRNRRetries, 1, []string{"hw_counters/rnr_nak_retry_err", "hw_counters/rnr_naks_rcvd", "hw_counters/RNR received"}},                 // mlx5; bnxt_re; irdma
	{fieldSymbolErrors, 1, []string{"counters/symbol_error"}},
	{fieldLinkDowned, 1, []string{"counters/link_downed"}},
	{fieldLinkRecovered, 1, []string{"counters/link_error_recovery"}},
	{fieldRxErrors, 1, []string{"counters/port_rcv_errors", "hw_counters/rx_roce_error_pkts"}},
	{fieldTxDiscards, 1, []string{"counters/port_xmit_discards", "hw_counters/tx_roce_discard_pkts"}},
	{fieldRxDiscards, 1, []string{"hw_counters/out_of_buffer", "hw_counters/rx_out_of_buffer", "hw_counters/rx_drops", "hw_counters/ip4InDiscards+hw_counters/ip6InDiscards"}}, // mlx5; bnxt_re; efa; irdma
}

// Network devices.
var (
	netBase = []named{
		{fieldTx, 1, []string{"statistics/tx_bytes"}}, {fieldRx, 1, []string{"statistics/rx_bytes"}},
		{fieldTxPackets, 1, []string{"statistics/tx_packets"}}, {fieldRxPackets, 1, []string{"statistics/rx_packets"}},
	}
	netSlow = []named{
		{fieldLinkDowned, 1, []string{"carrier_down_count"}}, {fieldRxErrors, 1, []string{"statistics/rx_errors"}},
		{fieldTxDiscards, 1, []string{"statistics/tx_dropped"}}, {fieldRxDiscards, 1, []string{"statistics/rx_dropped"}},
	}
)

// readSlow reads what changes rarely, or what firmware is asked for. A speed that a driver
// does not tell is not known, and no fault; what it tells and makes no sense is one.
func (f *Fabric) readSlow(p *port) {
	p.rateMbps, p.bad = -1, ""
	if b, err := small(p.rate, f.buf[:]); err == nil {
		parse := parseSpeed
		if p.rdma {
			parse = parseRate
		}
		v, ok := parse(b)
		switch {
		case ok:
			p.rateMbps = v
		case p.rdma:
			p.bad = fmt.Sprintf("%s holds %.32q, which is no rate", p.rate, b)
		}
	}
	f.readLink(p)
	for i := range p.slow {
		r := &p.slow[i]
		if err := f.read(r); err != nil && p.bad == "" && !errors.Is(err, syscall.EOPNOTSUPP) {
			p.bad = "cannot read " + r.files[0].path + ": " + why(err)
		}
		r.close()
		if r.field != fieldLinkDowned || r.value < 0 {
			continue
		}
		if p.downed >= 0 && r.value > p.downed {
			p.flaps, p.flapAt = p.flaps+r.value-p.downed, f.at.BootMs
		}
		p.downed = r.value
	}
	if p.flaps > 0 && f.at.BootMs-p.flapAt >= flapMs {
		p.flaps = 0
	}
}

// readLink reads the state of the link and keeps what it was.
func (f *Fabric) readLink(p *port) {
	p.up = -1
	parse := parseOperstate
	if p.rdma {
		parse = parseState
	}
	b, err := small(p.link, f.buf[:])
	if err != nil {
		return
	}
	up, ok := parse(b)
	if !ok {
		if p.rdma && p.bad == "" {
			p.bad = fmt.Sprintf("%s holds %.32q, which is no state of a port", p.link, b)
		}
		return
	}
	p.up = 0
	if up {
		p.up = 1
	}
	if p.up == 0 && p.linkWas == 1 {
		p.linkLost = fmt.Sprintf("the link was up and is down (%.32s", b)
		if phys, err := small(p.phys, f.buf[:]); err == nil && len(phys) > 0 {
			p.linkLost += fmt.Sprintf(", physically %.32s", phys)
		}
		p.linkLost += "): look at its cable, transceiver and switch port"
	}
	if p.up == 1 {
		p.linkLost = ""
	}
	p.linkWas = p.up
}

// heed looks at the link of a port whose bytes have just stopped moving: a training whose
// link fails is seen at the next tick, not at the next look.
func (f *Fabric) heed(p *port) {
	if len(p.base) < 2 || p.kind == kindVF {
		return
	}
	now := [2]int64{p.base[0].value, p.base[1].value}
	moved := p.last[0] >= 0 && now != p.last
	p.still = p.moved && !moved
	p.moved, p.last = moved, now
	if p.still && !p.fresh {
		f.readLink(p)
	}
}

// judge keeps and tells what is wrong with a port.
func (f *Fabric) judge(p *port, failed *reading, err error, out source.Sink) {
	reason := ""
	switch {
	case failed != nil:
		if p.reason == "" && (errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENOENT)) {
			f.rescan = true // once: it may be gone, or its driver may have no counters
		}
		if p.reason != "" && p.told == source.Degraded && !p.fresh {
			return // it was said; the words are made anew with the slow files
		}
		reason = "cannot read " + failed.files[0].path + ": " + why(err)
	case len(p.base) < 2:
		reason = "its driver has no counters of bytes in " + p.dir()
	case p.bad != "":
		reason = p.bad
	case p.linkLost != "":
		reason = p.linkLost
	case p.flaps > 0:
		reason = fmt.Sprintf("the link went down %d times within minutes, and is up", p.flaps)
	}
	if reason == p.reason {
		return
	}
	p.reason, p.told = reason, source.Active
	if reason != "" {
		p.told = source.Degraded
	}
	out.Status(source.Status{Instrument: "fabric/" + p.name, State: p.told, Reason: reason})
}

// dir is where the files of a port lie.
func (p *port) dir() string {
	if i := len(p.link) - len("/state"); p.rdma && i > 0 {
		return p.link[:i]
	}
	return p.link
}
