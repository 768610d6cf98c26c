#!lua
-- uses events answers outbox streams tasks steps runs new_runs wake
-- One slot of a heartbeat becomes a task, or a whole run: once, whoever asks and however often.
-- KEYS fixed, then
--   1 heartbeat
--   2 guard               of the slot
--   3 run
--   4 steps
--   5 task
--   6 run_events
-- ARGV
--   1 uid
--   2 crew
--   3 max_queued
--   4 generation
--   5 slot                in ms; '': a person asked for it, so the next slot stays
--   6 following           the next slot, in ms
--   7 guard_ms            how long the guard is kept
--   8 is_task             task: of one agent; run: of the whole crew
--   9 id                  of that task or run
--   10 definition         that the caller looked at
--   11 ...                of a task an item of submit.lua; of a run what `read_run` reads
-- Answers
--   {'gone'}
--   {'stale'}             it was removed, suspended, or has another generation
--   {'changed'}           the crew has another definition by now
--   {'conflict'}          the id is taken
--   {'full'}
--   {'fired', next slot}
--   {'already', next slot}
local uid, crew, max_queued, generation, slot = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local following, guard_ms, is_task, id, definition = ARGV[6], ARGV[7], ARGV[8] == 'task', ARGV[9], ARGV[10]
local heartbeat, guard, task = KEYS[FIXED + 1], KEYS[FIXED + 2], KEYS[FIXED + 5]
local of = { run_id = id, run = KEYS[FIXED + 3], steps = KEYS[FIXED + 4], task = task, run_events = KEYS[FIXED + 6] }

if is_gone(uid) then return { 'gone' } end
local known = redis.call('HMGET', heartbeat, 'uid', 'generation', 'next')
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
if redis.call('GET', guard) == uid or redis.call('EXISTS', is_task and task or of.run) == 1 then
  pass()
  return { 'already', next_slot }
end
if redis.call('EXISTS', is_task and of.run or task) == 1 then return { 'conflict' } end
if redis.call('HGET', META, 'def') ~= definition then return { 'changed' } end
local run = not is_task and read_run(11)
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
  add_task(task, 11, '')
end
redis.call('HSET', heartbeat, 'last', slot ~= '' and slot or int(now_ms))
pass()
ring()
if waiting == 0 then wake(crew) end
return { 'fired', next_slot }
