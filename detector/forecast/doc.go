// Package forecast projects when a run may cross a limit.
//
// It owns rates over calendar time, stalls included, and what follows from them: the
// moment of a crossing as 10, 50 and 90 % points, and the total at the end of a
// contract. It must not know what a limit means, whom it binds, or telemetry: it reads a
// series of cumulative best values and the interval of its end.
//
// It is pure and keeps nothing; slices belong to the caller and are only read.
//
// # Crossing
//
// Two things are uncertain: by what factor the whole series is off (the estimate's
// interval, the same factor at all times), and how fast the run goes on. The second is
// the mean of the last hour's and the last day's rate in log space, with a spread that
// grows with their disagreement, with the horizon, and with how short the series is.
// Both are taken on a grid of quantiles; each pair gives one moment, in the past where
// the scaled series has crossed already, in the future otherwise, never later than the
// contract. A run's own scale-ups enter through the last hour's rate.
package forecast
