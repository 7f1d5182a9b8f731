package exporter

import (
	"context"
	"log/slog"
	"strings"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/agent/spool"
)

var (
	spoolFrames    = gauge("spool_frames", "Frames on disk, committed ones that wait for their segment included.")
	spoolBytes     = gauge("spool_bytes", "Bytes on disk.")
	spoolMaxBytes  = gauge("spool_max_bytes", "Bound of the bytes on disk.")
	spoolOldest    = gauge("spool_oldest_seconds", "Age of the oldest frame that the collector has not stored; 0: it has all.")
	spoolGaps      = gauge("spool_gaps", "Ranges of frames that were given up and that the collector has still to be told of.")
	spoolEvicted   = counter("spool_evicted_frames_total", "Frames that were given up because the spool was full or they were too old.")
	spoolGivenUp   = counter("spool_given_up_frames_total", "Frames that were given up, by why.", "reason")
	spoolCorrupt   = counter("spool_corrupt_stretches_total", "Damaged stretches found on disk, kept in quarantine.")
	spoolUnkept    = counter("spool_unkept_stretches_total", "Damaged stretches that quarantine had no room for.")
	spoolSyncError = counter("spool_sync_errors_total", "Syncs of the spool that failed.")
	spoolPosError  = counter("spool_position_errors_total", "Writes of the spool's positions that failed.")
	spoolWaiting   = gauge("spool_waiting_frames", "Frames that wait for the broker's ack, or for the collector's commit mark.", "for")
	spoolWaitBytes = gauge("spool_waiting_bytes", "Bytes of the frames that wait for the broker's ack, or for the collector's commit mark.", "for")
	spoolQFiles    = gauge("spool_quarantine_files", "Files in quarantine.")
	spoolQBytes    = gauge("spool_quarantine_bytes", "Bytes in quarantine.")
	spoolFree      = gauge("spool_disk_free_bytes", "Bytes that the spool's file system has free.")
	spoolReserve   = gauge("spool_disk_reserve_bytes", "Free bytes below which the spool does not grow.")
	spoolTrouble   = gauge("spool_trouble", "1: the spool takes no frames, or at a price, for that reason.", "trouble")
	seqSealed      = gauge("sequence_sealed", "Last batch that is durable in the spool.")
	seqAcked       = gauge("sequence_acked", "Last batch up to which the broker has all.")
	seqCommitted   = gauge("sequence_committed", "Last batch up to which the collector has stored all.")

	shipPublished = counter("published_total", "Frames published, repeats included.")
	shipBytes     = counter("published_bytes_total", "Bytes published, repeats included.")
	shipAcked     = counter("acked_total", "Frames that the broker acknowledged.")
	shipResent    = counter("resent_total", "Frames sent again for want of a commit mark.")
	shipErrors    = counter("publish_errors_total", "Errors of publishing.")
	shipRefused   = counter("publish_refused_total", "Errors of publishing, by what they were.", "trouble")
	shipMarks     = counter("commit_marks_total", "Commit marks of the collector.")
	shipBadMarks  = counter("bad_commit_marks_total", "Commit marks that could not be read or were another's.")
	shipFlight    = gauge("publish_in_flight", "Frames that wait for the broker's ack now.")
	backlogFrames = gauge("backlog_frames", "Frames of a backlog that are left to be sent.")
	backlogBytes  = gauge("backlog_bytes", "Bytes of a backlog that are left to be sent.")
	backlogRate   = gauge("backlog_rate_bytes_per_second", "What may be sent of a backlog now; 0: there is none.")
	backlogSent   = counter("backlog_sent_bytes_total", "Bytes of backlogs that were sent.")
	liveLag       = gauge("live_lag_seconds", "Age of the oldest new frame that waits for its ack; 0: none waits.")
	shipParked    = gauge("parked_frames", "Frames that the broker can never take as it is set; they stay in the spool.")
	shipTrouble   = gauge("ship_trouble", "1: frames are not sent, or not all, for that reason.", "trouble")
	brokerUp      = gauge("broker_up", "1: there is a connection to the broker.")
	brokerDowns   = counter("broker_disconnects_total", "How often the connection to the broker was lost.")

	bmcTargets = gauge("bmc_targets", "Management controllers that are asked, by how they answer.", "state")
)

// Closed lists: labels never come from the text of an error.
var (
	givenUp       = []spool.Reason{spool.ReasonBytes, spool.ReasonAge, spool.ReasonCorrupt, spool.ReasonDisk}
	spoolTroubles = []spool.Trouble{spool.TroubleTight, spool.TroubleNoRoom, spool.TroubleReadOnly, spool.TroubleIO, spool.TroubleDenied, spool.TroubleOther}
	shipTroubles  = []ship.Trouble{ship.TroubleNoBroker, ship.TroubleNoStream, ship.TroubleFull, ship.TroubleDenied, ship.TroubleTooLarge, ship.TroubleTimeout,
		ship.TroubleSpool, ship.TroubleOther}
)

func (e *Exporter) spool(put func(m metric, v float64, labels ...string)) {
	sp := e.cfg.Spool
	st := sp.Stats()
	put(spoolFrames, float64(st.Frames))
	put(spoolBytes, float64(st.Bytes))
	put(spoolMaxBytes, float64(e.cfg.SpoolMaxBytes))
	put(spoolGaps, float64(len(sp.Gaps())))
	put(spoolEvicted, float64(st.EvictedFrames))
	for _, r := range givenUp {
		put(spoolGivenUp, float64(st.GivenUp[r]), r.String())
	}
	put(spoolCorrupt, float64(st.CorruptStretches))
	put(spoolUnkept, float64(st.Unkept))
	put(spoolSyncError, float64(st.SyncErrors))
	put(spoolPosError, float64(st.PositionErrors))
	put(spoolWaiting, float64(st.UnackedFrames), "ack")
	put(spoolWaiting, float64(st.UncommittedFrames), "commit")
	put(spoolWaitBytes, float64(st.UnackedBytes), "ack")
	put(spoolWaitBytes, float64(st.UncommittedBytes), "commit")
	put(spoolQFiles, float64(st.QuarantineFiles))
	put(spoolQBytes, float64(st.QuarantineBytes))
	if st.FreeBytes > 0 || st.ReserveBytes > 0 {
		put(spoolFree, float64(st.FreeBytes))
		put(spoolReserve, float64(st.ReserveBytes))
	}
	for _, t := range spoolTroubles {
		put(spoolTrouble, one(st.Trouble == t), label(string(t)))
	}
	put(seqSealed, float64(sp.Synced()))
	put(seqAcked, float64(sp.Acked()))
	put(seqCommitted, float64(sp.Committed()))
	oldest, err := sp.OldestMs()
	switch {
	case err != nil:
		e.mu.Lock()
		first := !e.failed
		e.failed = true
		e.mu.Unlock()
		if first {
			e.cfg.Log.LogAttrs(context.Background(), slog.LevelWarn, "the age of the spool is not known", slog.Any("err", err))
		}
	case oldest == 0:
		put(spoolOldest, 0)
	default:
		put(spoolOldest, max(0, float64(e.cfg.Now().UnixMilli()-oldest)/1000))
	}
}

func (e *Exporter) ship(put func(m metric, v float64, labels ...string)) {
	st := e.cfg.Ship()
	put(shipPublished, float64(st.Published))
	put(shipBytes, float64(st.PublishedBytes))
	put(shipAcked, float64(st.Acked))
	put(shipResent, float64(st.Resent))
	put(shipErrors, float64(st.Errors))
	put(shipMarks, float64(st.Marks))
	put(shipBadMarks, float64(st.BadMarks))
	put(shipFlight, float64(st.InFlight))
	put(backlogFrames, float64(st.BacklogFrames))
	put(backlogBytes, float64(st.BacklogBytes))
	put(backlogRate, float64(st.BacklogRate))
	put(backlogSent, float64(st.BacklogSent))
	put(liveLag, float64(st.LiveLagMs)/1000)
	put(shipParked, float64(st.Parked))
	for _, t := range shipTroubles {
		put(shipTrouble, one(st.Trouble == t), label(string(t)))
		put(shipRefused, float64(st.Refused[t]), label(string(t)))
	}
	b := e.cfg.Broker()
	put(brokerUp, one(b.Up))
	put(brokerDowns, float64(b.Downs))
}

// label makes a label's value of a name of several words.
func label(name string) string {
	return strings.NewReplacer(" ", "_", "/", "_", "-", "_").Replace(name)
}

// bmc counts the controllers: which of them it is, is among the instruments.
func (e *Exporter) bmc(list []agent.StatusAt, put func(m metric, v float64, labels ...string)) {
	count, any := map[source.State]int{}, false
	for i := range list {
		if strings.HasPrefix(list[i].Instrument, "bmc/") {
			count[list[i].State]++
			any = true
		}
	}
	if !any {
		return
	}
	for _, s := range states {
		put(bmcTargets, float64(count[s]), string(s))
	}
}
