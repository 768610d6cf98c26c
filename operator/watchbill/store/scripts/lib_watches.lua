-- What the watches of a crew have read of its feed. `watches` in meta has their places: name, FS and the id of the last
-- event that the watch has dealt with, joined by LS. `watched` is the id up to which all of them have dealt with all;
-- FS behind it: the feed has told that events behind that were lost. `looked` is the time of the last look.
-- uses nothing

local function parts_of(id)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(number)
end

-- Whether one id of the feed is later than another.
local function is_later(id, than)
  local ms, number = parts_of(id)
  local ms_before, number_before = parts_of(than)
  return ms > ms_before or ms == ms_before and number > number_before
end

local function read_places(text)
  local places = {}
  for _, one in ipairs(split(text or '', LS)) do
    local name, id = string.match(one, '^([^\31]+)\31(.+)$')
    places[name] = id
  end
  return places
end

local function write_places(places)
  local packed = {}
  for name, id in pairs(places) do packed[#packed + 1] = name .. FS .. id end
  table.sort(packed)
  redis.call('HSET', META, 'watches', table.concat(packed, LS))
end

-- Takes up the watches of these names: those that are new begin at the end of the feed. Returns up to where all have
-- dealt with all, whether a loss behind that was told, and the end of the feed; nil where there is no watch.
local function keep_places(names)
  local meta = redis.call('HMGET', META, 'watches', 'watched')
  local known, watched = meta[1], meta[2]
  if #names == 0 then
    if known then redis.call('HDEL', META, 'watches', 'watched', 'looked') end
    return nil
  end
  local last = redis.call('XREVRANGE', EVENTS, '+', '-', 'COUNT', 1)[1]
  local newest = last and last[1] or '0-0'
  local at, told = string.match(watched or '0-0', '^([^\31]*)(\31?)$')
  local is_another = last and is_later(at, newest)      -- the feed had gone, and has begun anew
  local places, of, any, changed = read_places(known), {}, false, false
  for _, name in ipairs(names) do
    local place = places[name]
    any = any or place ~= nil
    of[name] = place and (is_another and '0-0' or place) or newest
    changed = changed or of[name] ~= place
    places[name] = nil
  end
  if changed or next(places) then write_places(of) end
  if not any or is_another then
    at, told = any and '0-0' or newest, ''
    redis.call('HSET', META, 'watched', at)
  end
  return at, told ~= '', newest
end
