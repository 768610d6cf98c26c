-- Gives entries of a stream to a consumer of a group: those that some consumer was given long ago, or new ones. Of an
-- entry that is longer than it may be only the beginning is answered.
-- KEYS
--   1 stream
-- ARGV
--   1 group
--   2 consumer
--   3 idle_ms             entries that some consumer was given so long ago; '': new ones
--   4 count               entries at most
--   5 room                bytes: once the answer has so many, no further entry is given
--   6 longest             bytes that an entry may have
--   7 shown               bytes that are answered of a longer one, at most
-- Answers entries, each as {id, bytes, {name, value, name, value, ...}}
local stream, group, consumer, idle_ms = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local count, room, longest, shown = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local FIELDS = 4000             -- names and values that are answered of one entry, at most
local looks, cursor = 100, '0-0'        -- each look is at some ten entries that were given
local function next_idle()
  while looks > 0 do
    local found = redis.call('XAUTOCLAIM', stream, group, consumer, idle_ms, cursor, 'COUNT', 1, 'JUSTID')
    cursor = found[1]
    looks = cursor == '0-0' and 0 or looks - 1
    local id = found[2][1]
    local entry = id and redis.call('XRANGE', stream, id, id)[1]
    if entry then return entry end
  end
end

local function next_new()
  local found = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', 1, 'STREAMS', stream, '>')
  return found and found[1][2][1]
end

local function beginning(fields)
  local left, cut = shown, {}
  for i = 1, #fields do
    if i % 2 == 1 and (left == 0 or i > FIELDS) then break end
    cut[i] = string.sub(fields[i], 1, left)
    left = left - #cut[i]
  end
  return cut
end

local entries, answered = {}, 0
while #entries < count and answered < room do
  local entry
  if idle_ms == '' then entry = next_new() else entry = next_idle() end
  if not entry then break end
  local id, fields, bytes = entry[1], entry[2], 0
  for i = 1, #fields do bytes = bytes + #fields[i] end
  if bytes > longest or #fields > FIELDS then fields = beginning(fields) end
  for i = 1, #fields do answered = answered + #fields[i] end
  entries[#entries + 1] = { id, bytes, fields }
end
return entries
