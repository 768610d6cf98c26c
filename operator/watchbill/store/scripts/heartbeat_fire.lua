#!lua
-- uses events answers outbox streams tasks steps runs new_runs wake
-- One slot of a heartbeat becomes a task, or a whole run: once, whoever asks and however often.
-- KEYS fixed, then
--   1 heartbeat
--   2 fired
--   3 guard               of the slot
--   4 run
--   5 steps
--   6 task
--   7 run_events
--   8 last_task           the task, or
--   9 last_run            the run, that `last` names
-- ARGV
--   1 policy              Allow | Forbid | Replace: whether it fires while what it fired last has not ended
--   2 last                id of what it fired last, as far as the caller knows; '': nothing
--   3 is_stopped          1: the caller has cancelled that
--   4 uid
--   5 crew
--   6 max_queued
--   7 generation
--   8 slot                in ms; '': a person asked for it, so the next slot stays
--   9 following           the next slot, in ms
--   10 guard_ms           how long the guard is kept
--   11 is_task            task: of one agent; run: of the whole crew
--   12 id                 of that task or run
--   13 definition         that the caller looked at
--   14 ...                of a task an item of submit.lua; of a run what `read_run` reads
-- Answers
--   {'gone'}
--   {'stale'}             it was removed, suspended, or has another generation
--   {'changed'}           the crew has another definition by now
--   {'conflict'}          the id is taken
--   {'other', id}         it has fired something else last
--   {'busy'}              what it fired last has not ended
--   {'full'}
--   {'held', why}         a person asked for it, and there is no room for the crew
--   {'closed', why}       a person asked for it, and somebody has closed the crew
--   {'fired', next slot}
--   {'already', next slot}  it was fired or told as missed before, or its crew is suspended or closed
local policy, last, is_stopped = ARGV[1], ARGV[2], ARGV[3] == '1'
local uid, crew, max_queued, generation, slot = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]
local following, guard_ms, is_task, id, definition = ARGV[9], ARGV[10], ARGV[11] == 'task', ARGV[12], ARGV[13]
local heartbeat, fired, guard, task = KEYS[FIXED + 1], KEYS[FIXED + 2], KEYS[FIXED + 3], KEYS[FIXED + 6]
local last_task, last_run = KEYS[FIXED + 8], KEYS[FIXED + 9]
local of = { run_id = id, run = KEYS[FIXED + 4], steps = KEYS[FIXED + 5], task = task, run_events = KEYS[FIXED + 7] }
local KEPT = 100                -- so many ids of what it has fired

if is_gone(uid) then return { 'gone' } end
local known = redis.call('HMGET', heartbeat, 'uid', 'generation', 'next', 'work')
if known[1] ~= uid or known[2] ~= generation then return { 'stale' } end
local next_slot = known[3]
if slot ~= '' then
  if next_slot == '' then return { 'stale' } end
  if tonumber(slot) < tonumber(next_slot) then return { 'already', next_slot } end      -- fired, or told as missed
end
local function pass()
  if slot ~= '' then
    next_slot = following
    redis.call('HSET', heartbeat, 'next', next_slot)
  end
end
local meta = redis.call('HMGET', META, 'suspended', 'closed', 'closing')
local suspended, closed, closing = meta[1], meta[2], meta[3]
if slot ~= '' and (suspended or closed) then     -- the crew is: the slot passes
  pass()
  return { 'already', next_slot }
end
if closed then return { tonumber(closed) and 'gone' or closing == closed and 'closed' or 'held', closed } end
if redis.call('GET', guard) == uid or redis.call('EXISTS', is_task and task or of.run) == 1 then
  pass()
  return { 'already', next_slot }
end
if redis.call('EXISTS', is_task and of.run or task) == 1 then return { 'conflict' } end
if redis.call('HGET', META, 'def') ~= definition then return { 'changed' } end
if policy ~= 'Allow' then
  if (known[4] or '') ~= last then return { 'other', known[4] or '' } end
  if last ~= '' and not is_stopped then
    local record = redis.call('EXISTS', last_task) == 1 and last_task or last_run
    local found = redis.call('HMGET', record, 'state', 'finished')
    if found[1] and not found[2] then return { 'busy' } end
  end
end
local run = not is_task and read_run(14)
local waiting = queued()
if present(waiting) + (run and #run.steps or 1) > max_queued then return { 'full' } end     -- it is fired later

redis.call('SET', guard, uid, 'PX', guard_ms)     -- it outlives a crew: another of that name fires anew
if run then
  add_run(of, run)
  add_steps(of, run.steps)
  local name = string.match(heartbeat, ':heartbeat:(.*)$')
  event('mission_watch_triggered', '"mission_id":' .. quote(id) .. ',"message":'
    .. quote('heartbeat ' .. name .. (slot == '' and ', because somebody asked for it' or '')), nil, of.run_events)
  start_run(of)
else
  add_task(task, 14, '')
end
redis.call('HSET', heartbeat, 'last', slot ~= '' and slot or int(now_ms), 'work', id)
if slot ~= '' then redis.call('HSET', heartbeat, 'slot', slot) end
redis.call('LPUSH', fired, id .. ' ' .. now)
redis.call('LTRIM', fired, 0, KEPT - 1)
pass()
ring()
wake(crew, false, waiting)
return { 'fired', next_slot }
