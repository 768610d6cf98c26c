#!lua
-- uses events holders answers outbox streams steps runs items
-- A step of a run that is held begins another one, which works for it; or hears what has become of that one.
-- KEYS fixed, then those of the item (lib_items.lua), then
--   results               of the run
--   agent_events          of the other agent
-- ARGV
--   1 uid
--   2 inc
--   3 id
--   4 fence
--   5 name                of the other step
--   6 agent               that does its work
--   7 asked               what it is asked, as JSON
--   8 event_type          task_delegated | reviewer_handoff
--   9 message
--   10 scope              '': none
-- Answers
--   {'gone'}
--   {'fenced'}
--   {'unknown'}
--   {'stale'}             the step isn't held under this fence any more
--   {'over'}              the run is being cancelled: nothing new begins
--   {'ok', asked, result} what it was asked, and its result; '': it has not ended
local uid, inc, id, fence, name = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local agent, asked, event_type, message, scope = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local bar = barred(uid, inc)
if bar then return { bar } end
local item, h = next_item(id), holder(id)
local results, child_events = KEYS[next_key], KEYS[next_key + 1]
if not holds(h, inc, fence) then return { 'stale' } end
local step = read_step(item.steps, name)
if step then
  local result = step.finished ~= '0' and redis.call('HGET', results, name)
  return { 'ok', redis.call('HGET', item.run, 'asked:' .. name) or '', result or '' }
end
if redis.call('HGET', item.run, 'state') ~= 'running' then return { 'over' } end
redis.call('HSET', item.run, 'asked:' .. name, asked)
redis.call('HINCRBY', item.run, 'steps', 1)
local more = { fields = ',"child_agent_id":' .. quote(agent), streams = { child_events } }
if scope ~= '' then more.fields = more.fields .. ',"scope":' .. quote(scope) end
if event_type == 'task_delegated' then more.fields = more.fields .. ',"spawn_mode":"fresh"' end
item_event(item, event_type, h.agent, message, more)
step = { state = 'waiting', left = 0, index = int(redis.call('HLEN', item.steps)), agent = agent,
  successors = item.name, attempt = '0', fence = '0', started = '0', finished = '0', spent = '', entry = '',
  marks = LENIENT .. DELEGATED }
local before = queued()
runs().pump(item, { { name, step } })
if queued() > before then ring() end
return { 'ok', asked, '' }
