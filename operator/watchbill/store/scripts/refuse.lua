#!lua flags=allow-oom
-- uses letters
-- An entry of another stream, which brings no task, becomes a dead letter; once, however often this is asked.
-- KEYS fixed, then
--   1 guard               remembers that the letter is written
-- ARGV
--   1 uid
--   2 entry               its id
--   3 reason
--   4 id                  of the task that it names; '': none
--   5 window              for how long `guard` is kept, in ms
--   6 ...                 name and value of each field
-- Answers
--   {'gone'}
--   {'ok'}
local uid, entry, reason, id, window = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local guard = KEYS[FIXED + 1]
if is_gone(uid) then return { 'gone' } end
if redis.call('EXISTS', guard) == 1 then return { 'ok' } end
local fields = { 'entry', entry }
for i = 6, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  fields[#fields + 1], fields[#fields + 2] = 'raw:' .. name, value
end
add_letter(reason, id, fields)
redis.call('SET', guard, '1', 'PX', window)
return { 'ok' }
