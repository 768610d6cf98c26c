#!lua flags=allow-oom
-- Makes dead letters of entries that are pending in a group, as far as they still are.
-- KEYS
--   1 stream
--   2 dead                its dead letters
-- ARGV
--   1 group
--   2 error               what their last handling said
--   3 ...                 ids
-- Answers the ids that were pending
local stream, dead = KEYS[1], KEYS[2]
local group, error = ARGV[1], ARGV[2]
local FIRST = 3
local FIELDS = 4000     -- of an entry, names and values: Lua can't pass on many more
local BYTES = 1048576   -- of an entry that a letter carries: a larger one is not kept twice

local function write_letter(id, given)
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if not entry then return end
  local fields, said, bytes = entry[2], error, 0
  for i = 1, #fields do bytes = bytes + #fields[i] end
  if #fields > FIELDS or bytes > BYTES then
    local size = #fields / 2 .. ' fields, ' .. bytes .. ' bytes'
    fields, said = {}, 'It is too large for a copy (' .. size .. '), and is still in the stream. ' .. error
  end
  local about = { 'wb:id', id, 'wb:group', group, 'wb:deliveries', given, 'wb:error', said }
  for i = 1, #about do fields[#fields + 1] = about[i] end
  redis.call('XADD', dead, '*', unpack(fields))
end

redis.call('XLEN', dead) -- fails here, before any write, if another program's key is in the way
local buried = {}
for i = FIRST, #ARGV do
  local id = ARGV[i]
  local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if pending then
    write_letter(id, pending[4])
    redis.call('XACK', stream, group, id)
    buried[#buried + 1] = id
  end
end
return buried
