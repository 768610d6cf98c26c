#!lua flags=allow-oom
-- uses letters
-- An entry of another stream, which brings no task, becomes a dead letter; once, however often this is asked.
-- KEYS fixed, then
--   1 guard               remembers that the letter is written
-- ARGV
--   1 uid
--   2 entry               its id
--   3 reason
--   4 window              for how long `guard` is kept, in ms
--   5 size                of the entry, in bytes
--   6 ...                 name and value of each field, or of the first ones
-- Answers
--   {'gone'}
--   {'ok'}
local uid, entry, reason, window, size = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local FIRST = 6                                 -- the first of the fields
local guard = KEYS[FIXED + 1]
if is_gone(uid) then return { 'gone' } end
if redis.call('EXISTS', guard) == 1 then return { 'ok' } end
local raw = { size = tonumber(size) }
for i = FIRST, #ARGV do raw[#raw + 1] = ARGV[i] end
add_letter(reason, '', { 'entry', entry }, nil, raw)
redis.call('SET', guard, '1', 'PX', window)
return { 'ok' }
