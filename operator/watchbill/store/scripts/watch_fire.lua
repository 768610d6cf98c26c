#!lua
-- uses events answers outbox streams tasks steps runs new_runs wake watches
-- One event of the crew's feed begins a task, or a whole run, for one of its watches: once, whoever asks and however
-- often. The place of the watch moves to that event with it.
-- KEYS fixed, then
--   1 run
--   2 steps
--   3 task
--   4 run_events
--   5 agent_events        of the task's agent
-- ARGV
--   1 uid
--   2 crew
--   3 definition          that the caller looked at
--   4 max_queued
--   5 watch
--   6 event_id
--   7 message             what the feed says
--   8 what                task: of one agent; run: of the whole crew; tell: nothing begins, and the feed says why
--   9 id                  of that task or run
--   10 agent              of the task, or its role
--   11 ...                of a task an item of submit.lua; of a run what `read_run` reads
-- Answers
--   {'gone'}
--   {'changed'}           the crew has another definition by now, or the watch is new to it
--   {'rest'}              it is suspended, or takes no work
--   {'already'}           the watch has dealt with that event
--   {'full'}
--   {'told'}
--   {'taken'}             the id is another's, which the feed says
--   {'fired'}
local uid, crew, definition, max_queued = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local watch, event_id, message, what, id, agent = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local task, agent_events = KEYS[FIXED + 3], KEYS[FIXED + 5]
local of = { run_id = id, run = KEYS[FIXED + 1], steps = KEYS[FIXED + 2], task = task, run_events = KEYS[FIXED + 4] }
if is_gone(uid) then return { 'gone' } end
local meta = redis.call('HMGET', META, 'def', 'suspended', 'closed', 'watches')
local def, suspended, closed, known = meta[1], meta[2], meta[3], meta[4]
if def ~= definition then return { 'changed' } end
if suspended or closed then return { 'rest' } end
local places = read_places(known)
if not places[watch] then return { 'changed' } end
if not is_later(event_id, places[watch]) then return { 'already' } end
places[watch] = event_id

local function tell(text)
  write_places(places)
  event('mission_event', '"message":' .. quote(text))
end
if what == 'tell' then
  tell(message)
  return { 'told' }
end
if redis.call('EXISTS', task, of.run) > 0 then
  tell(message .. ' begins nothing: ' .. id .. ' is the id of other work')
  return { 'taken' }
end
local run = what == 'run' and read_run(11)
local waiting = queued()
if present(waiting) + (run and #run.steps or 1) > max_queued then return { 'full' } end
write_places(places)
if run then
  add_run(of, run)
  add_steps(of, run.steps)
  event('mission_watch_triggered', '"mission_id":' .. quote(id) .. ',"message":' .. quote(message), nil, of.run_events)
  start_run(of)
else
  add_task(task, 11, '')
  local has_agent = not role_of(agent)
  event('mission_watch_triggered', (has_agent and '"agent_id":' .. quote(agent) .. ',' or '') .. '"task_id":'
    .. quote(id) .. ',"message":' .. quote(message), has_agent and agent_events)
end
ring()
wake(crew, false, waiting)
return { 'fired' }
