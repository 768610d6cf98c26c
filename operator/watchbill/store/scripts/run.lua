#!lua flags=no-writes
-- uses nothing
-- A run and its steps as of one moment. A script, because servers refuse transactions, reads too, when memory is short.
-- KEYS fixed, then
--   1 run
--   2 steps
-- Answers {state, when it was submitted, when it ended, {name, packed step, ...}}; without a state there is no such run
local run, steps = KEYS[FIXED + 1], KEYS[FIXED + 2]
local known = redis.call('HMGET', run, 'state', 'submitted', 'finished')
return { known[1], known[2], known[3], redis.call('HGETALL', steps) }
