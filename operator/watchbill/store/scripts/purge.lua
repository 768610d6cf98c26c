#!lua flags=allow-oom
-- uses nothing
-- Dead letters go for good.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 ...                 letters
-- Answers
--   {'gone'}
--   {'ok', n}             so many there were
local uid = ARGV[1]
if is_gone(uid) then return { 'gone' } end
local n = 0
for i = 2, #ARGV do
  local letter = ARGV[i]
  n = n + redis.call('XDEL', DEAD, letter)
end
return { 'ok', n }
