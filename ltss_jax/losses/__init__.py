"""Losses: functions of arrays that know no model and no data set."""
