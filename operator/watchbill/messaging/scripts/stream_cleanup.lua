#!lua flags=allow-oom
-- Destroys groups of a stream, and then the stream with its dead letters, but nothing that a living consumer uses: one
-- that was heard of lately, or that may still be busy with what is pending with it.
-- KEYS
--   1 stream
--   2 dead                its dead letters
--   3 listed              the streams of the crew that this one belongs to, where it does
-- ARGV
--   1 heard_ms            a consumer that was heard of within so long lives
--   2 busy_ms             and so does one with something pending, within so long
--   3 returned            consumer that holds what was handed back; it never lives
--   4 force               '1': living consumers are no reason
--   5 named               '1': only the groups that follow, and not all
--   6 ...                 groups
-- Answers the groups that have living consumers, each with one of these
local stream, dead, listed = KEYS[1], KEYS[2], KEYS[3]
local heard_ms, busy_ms, returned = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local force, named = ARGV[4] == '1', ARGV[5] == '1'
local FIRST = 6

local function by_name(listed)
  local found = {}
  for i = 1, #listed, 2 do found[listed[i]] = listed[i + 1] end
  return found
end

local function living(group)
  for _, listed in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local one = by_name(listed)
    local within = one.pending > 0 and math.max(heard_ms, busy_ms) or heard_ms
    if one.name ~= returned and one.idle < within then return one.name end
  end
end

if redis.call('EXISTS', stream) == 0 then
  return {}
end
local meant = {}
for i = FIRST, #ARGV do meant[ARGV[i]] = true end
local alive, ended = {}, {}
for _, listed in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local group = by_name(listed).name
  local consumer = not force and living(group)
  if consumer then
    alive[#alive + 1] = { group, consumer }
  elseif not named or meant[group] then
    ended[#ended + 1] = group
  end
end

if #alive == 0 then
  redis.call('DEL', stream, dead)
  if listed then redis.call('SREM', listed, stream) end
else
  for _, group in ipairs(ended) do redis.call('XGROUP', 'DESTROY', stream, group) end
end
return alive
