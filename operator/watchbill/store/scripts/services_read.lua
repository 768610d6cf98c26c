-- Gives entries of a stream to a consumer of a group: new ones, or those that a consumer was given long ago. Of a too
-- long entry only the beginning is answered.
-- KEYS
--   1 stream
-- ARGV
--   1 group
--   2 consumer
--   3 holder              the consumer that was given the entries; '': new ones
--   4 idle_ms             a holder's, oldest first, as far as they were given so long ago
--   5 count               entries at most
--   6 room                bytes: once the answer has so many, no further entry is given
--   7 longest             bytes that an entry may have
--   8 shown               bytes that are answered of a longer one, at most
-- Answers entries, each as {id, bytes, {name, value, name, value, ...}}
local stream, group, consumer, holder, idle_ms = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local count, room, longest, shown = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

local FIELDS = 4000             -- names and values that are answered of one entry, at most
local held, at, looks, after = {}, 0, 10, '-'
local function next_held()
  while true do
    at = at + 1
    if not held[at] then
      if looks == 0 then return end
      held, at, looks = redis.call('XPENDING', stream, group, after, '+', count, holder), 1, looks - 1
    end
    local one = held[at]
    if not one or one[3] < idle_ms then return end
    local id = one[1]
    after = '(' .. id
    local entry = redis.call('XRANGE', stream, id, id)[1]
    if entry then
      redis.call('XCLAIM', stream, group, consumer, 0, id, 'JUSTID')
      return entry
    end
    redis.call('XACK', stream, group, id)       -- somebody has removed it
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
  if holder == '' then entry = next_new() else entry = next_held() end
  if not entry then break end
  local id, fields, bytes = entry[1], entry[2], 0
  for i = 1, #fields do bytes = bytes + #fields[i] end
  if bytes > longest or #fields > FIELDS then fields = beginning(fields) end
  for i = 1, #fields do answered = answered + #fields[i] end
  entries[#entries + 1] = { id, bytes, fields }
end
return entries
