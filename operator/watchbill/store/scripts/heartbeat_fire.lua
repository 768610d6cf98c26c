#!lua
-- uses events answers streams tasks steps runs new_runs
-- One slot of a heartbeat becomes a task, or a whole run. Once, whoever asks and however often.
-- KEYS: fixed; heartbeat, guard of the slot, run, steps, task, run events
-- ARGV: generation, slot in ms ('' = asked for by a person: the next slot stays), next slot in ms, life of the guard in ms,
--   agent ('' = the whole crew), uid, crew, maxQueued, id, class, payload, definition, digest of the work; of a task its
--   inputs joined, then name and value of each; of a run the rest of what submit_run takes, in one call
-- -> {'gone'} | {'stale'} (removed, suspended, or of another generation) | {'changed'} (the crew has another definition
--   by now) | {'conflict'} (the id is taken) | {'full'} | {fired | already, next slot}
local slot, agent, uid, crew, max_queued = ARGV[2], ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])
local id, class, payload, def, work, is_task = ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13], ARGV[5] ~= ''
local key, guard, run_key, steps_key, task_key, run_events = KEYS[FIXED + 1], KEYS[FIXED + 2], KEYS[FIXED + 3],
  KEYS[FIXED + 4], KEYS[FIXED + 5], KEYS[FIXED + 6]

if is_gone(uid) then return { 'gone' } end
local known = redis.call('HMGET', key, 'uid', 'generation', 'next')
if known[1] ~= uid or known[2] ~= ARGV[1] then return { 'stale' } end
local next_slot = known[3]
if slot ~= '' then
  if next_slot == '' then return { 'stale' } end
  if tonumber(slot) < tonumber(next_slot) then return { 'already', next_slot } end      -- fired, or told as missed
end
local function pass()
  if slot ~= '' then
    next_slot = ARGV[3]
    redis.call('HSET', key, 'next', next_slot)
  end
end
if redis.call('GET', guard) == uid or redis.call('EXISTS', is_task and task_key or run_key) == 1 then
  pass()
  return { 'already', next_slot }
end
if redis.call('EXISTS', is_task and run_key or task_key) == 1 then return { 'conflict' } end
if redis.call('HGET', META, 'def') ~= def then return { 'changed' } end
local steps = is_task and 1 or tonumber(ARGV[19])
local waiting = queued()
if present(waiting) + steps > max_queued then return { 'full' } end      -- the slot stays, to be fired later

redis.call('SET', guard, uid, 'PX', ARGV[4])     -- it outlives a crew: another of that name fires anew
if is_task then
  local values = {}
  for i = 15, #ARGV do values[#values + 1] = ARGV[i] end
  add_task(task_key, id, class, agent, payload, work, '', ARGV[14], values)
else
  local runs, values, at = new_runs_part(), {}, 22 + 2 * tonumber(ARGV[21])
  for i = 22, at - 1 do values[#values + 1] = ARGV[i] end
  runs.add_run(run_key, task_key, id, class, payload, def, work, ARGV[14], ARGV[15], '', ARGV[20], values)
  for _ = 1, steps do
    runs.add_step(run_key, steps_key, id, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4]), ARGV[at + 5])
    at = at + 5
  end
  runs.start_run(run_key, steps_key, run_events, id)
end
redis.call('HSET', key, 'last', slot ~= '' and slot or int(now_ms))
pass()
ring()
if waiting == 0 then wake(crew) end
return { 'fired', next_slot }
