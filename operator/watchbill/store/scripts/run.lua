#!lua flags=no-writes
-- uses nothing
-- A run and its steps as of one moment. A script, because servers refuse transactions, reads too, when memory is short.
-- KEYS: fixed; run, steps
-- -> {state, when it was submitted, when it ended, {name, step as it is packed, ...}}; no state: there is no such run
local run = redis.call('HMGET', KEYS[FIXED + 1], 'state', 'submitted', 'finished')
return { run[1], run[2], run[3], redis.call('HGETALL', KEYS[FIXED + 2]) }
