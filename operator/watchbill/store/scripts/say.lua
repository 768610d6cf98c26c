#!lua flags=allow-oom
-- uses events holders items
-- An agent tells something on the feeds, while the task is still its own: a message, or what it does with other agents.
-- KEYS fixed, then those of the item (lib_items.lua), then agent_events of the parent and of the child; the agent's own
-- where there is none
-- ARGV
--   1 uid
--   2 inc
--   3 id
--   4 fence
--   5 number              of what it tells, from 1, so that a repeat is known
--   6 event_type
--   7 message
--   8 parent              an agent; '': none
--   9 child               an agent; '': none
--   10 scope              '': none
--   11 spawn_mode         '': none
-- Answers gone | fenced | unknown | stale | ok
local uid, inc, id, fence, number = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local event_type, message, parent, child = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local scope, spawn_mode = ARGV[10], ARGV[11]
local bar = barred(uid, inc)
if bar then return bar end
local h = holder(id)
if not holds(h, inc, fence) then return 'stale' end
if tonumber(h.said) >= tonumber(number) then return 'ok' end
h.said = number
hold(id, h)
local item = next_item(id)
local parent_events, child_events = KEYS[next_key], KEYS[next_key + 1]
local more = { fields = '', streams = {} }
for _, field in ipairs({ { 'parent_agent_id', parent, parent_events }, { 'child_agent_id', child, child_events },
  { 'scope', scope }, { 'spawn_mode', spawn_mode } }) do
  local name, value, stream = field[1], field[2], field[3]
  if value ~= '' then more.fields = more.fields .. ',"' .. name .. '":' .. quote(value) end
  -- Each agent's stream once.
  if value ~= '' and stream and value ~= h.agent and stream ~= more.streams[1] then
    more.streams[#more.streams + 1] = stream
  end
end
item_event(item, event_type, h.agent, message, more)
if event_type == 'conductor_escalation' then item_event(item, 'mission_help_needed', h.agent, message) end
return 'ok'
