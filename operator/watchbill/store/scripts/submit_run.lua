#!lua
-- uses events answers outbox streams tasks steps runs new_runs wake
-- Adds a run and up to 500 of its steps. A larger run comes in several calls; the last one starts it.
-- KEYS fixed, then
--   1 run
--   2 steps
--   3 task                a task of that id is a conflict
--   4 run_events
--   5 dedupe              where it has a window
-- ARGV
--   1 uid
--   2 crew
--   3 max_queued
--   4 window              of its dedupe key, in ms; 0: it has none
--   5 is_last             1: the run is whole with this call
--   6 in_all              steps of the whole run
--   7 ...                 what `read_run` reads
-- Answers
--   {'gone'}
--   {'held', why}         there is no room for the crew
--   {'closed', why}       somebody has closed it
--   {'full'}
--   {'changed'}           the crew has another definition
--   {'ok', ...}           submitted | exists | conflict | other | duplicate:<id>
--                         | torn (the store went back in time, and has lost steps of a call before: begin anew)
local uid, crew, max_queued, window = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local is_last, in_all, run = ARGV[5] == '1', tonumber(ARGV[6]), read_run(7)
local dedupe = KEYS[FIXED + 5]
local of = { run_id = run.id, run = KEYS[FIXED + 1], steps = KEYS[FIXED + 2], task = KEYS[FIXED + 3],
  run_events = KEYS[FIXED + 4] }
local meta = redis.call('HMGET', META, 'uid', 'closed', 'limits')
if meta[1] ~= uid then return { 'gone' } end
heed(meta[3])
local before = run.steps[1] and tonumber(run.steps[1].index) or 0      -- steps of the calls before
if meta[2] and (before == 0 or tonumber(meta[2])) then     -- what is begun is taken whole
  local closing = redis.call('HGET', META, 'closing')
  return { tonumber(meta[2]) and 'gone' or closing == meta[2] and 'closed' or 'held', meta[2] }
end
local waiting = queued()
if redis.call('HLEN', of.steps) < before then return { 'ok', 'torn' } end
if redis.call('EXISTS', of.run) == 0 then
  local first = window > 0 and first_of(dedupe, uid)
  if first then
    write_again(uid)
    return { 'ok', 'duplicate:' .. first }
  end
  if redis.call('HGET', META, 'def') ~= run.definition then return { 'changed' } end
  if present(waiting) + in_all > max_queued then return refuse() end
end
local what = add_run(of, run)
if what == 'exists' or what == 'creating' then write_again(uid) end
if what ~= 'submitted' and what ~= 'creating' then return { 'ok', what } end
-- Until it is whole it has a place of its own in `ids`: trim.lua finds there what nobody goes on with.
if not is_last then
  redis.call('ZADD', IDS, FAR + math.floor(now_ms / 1000), run.id)
elseif what == 'creating' then
  redis.call('ZADD', IDS, FAR + now_ms, run.id)
end
if what == 'submitted' and window > 0 then set_dedupe(dedupe, uid, run.id, window) end
add_steps(of, run.steps)
if is_last then
  start_run(of)
  ring()
  wake(crew, false, waiting)
end
return { 'ok', 'submitted' }
