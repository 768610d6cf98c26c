#!lua
-- Makes a group that begins with the first entry of its stream, and the stream if it isn't there.
-- KEYS
--   1 stream
--   2 listed              the streams of the crew that this one belongs to, where it does
--   3 meta                of that crew
-- ARGV
--   1 group
-- Answers 1 | 0, there is one | gone, there is no such crew
local stream, listed, meta = KEYS[1], KEYS[2], KEYS[3]
local group = ARGV[1]
local is_new = listed and redis.call('EXISTS', stream) == 0
if is_new and redis.call('HEXISTS', meta, 'uid') == 0 then
  return 'gone'
end

local made = redis.pcall('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
if made.err and string.find(made.err, 'BUSYGROUP', 1, true) then
  return 0
elseif made.err then
  return made
end
if is_new then redis.call('SADD', listed, stream) end
return 1
