#!lua flags=no-writes
-- uses nothing
-- The turns of a session that are before a task, or all up to the newest: as many as there is room for, each whole.
-- KEYS fixed, then
--   1 session
-- ARGV
--   1 id                  of the task; '': all
--   2 follows             the task of the turn that it follows; '': the newest
--   3 most                turns
--   4 room                bytes of what was said in them
-- Answers
--   {'missing'}           there is no turn of the task that it follows
--   {'ok', ...}           packed turns, the newest first
local session = KEYS[FIXED + 1]
local id, follows, most, room = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local TURN = '^(%d*)\31[^\31]*\31%d+\31(.*)$'
local function turn(number)
  return number and number ~= '' and redis.call('HGET', session, 'turn:' .. number) or nil
end

local own, number = turn(redis.call('HGET', session, 'of:' .. id)), nil
if own then
  number = string.match(own, TURN)
elseif follows == '' then
  number = redis.call('HGET', session, 'head')
else
  number = redis.call('HGET', session, 'of:' .. follows)
  if not number then return { 'missing' } end
end
local answer = { 'ok' }
local packed = turn(number)
while packed and #answer <= most do
  local before, body = string.match(packed, TURN)
  room = room - #body
  if room < 0 then break end
  answer[#answer + 1] = packed
  packed = turn(before)
end
return answer
