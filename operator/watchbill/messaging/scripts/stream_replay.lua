#!lua
-- Gives messages that are dead letters to their group again, with all their deliveries, and deletes the letters. A
-- message that is no longer in the stream is added to it anew, and so for all groups. A letter whose group isn't there
-- stays.
-- KEYS
--   1 stream
--   2 dead                its dead letters
--   3 answer_key
-- ARGV
--   1 returned            consumer that holds what was handed back
--   2 seconds             for which the answer is kept
--   3 ...                 ids of letters
-- Answers the ids of the letters that were replayed, by spaces
local stream, dead, answer_key = KEYS[1], KEYS[2], KEYS[3]
local returned, seconds = ARGV[1], ARGV[2]
local FIRST = 3
local ABOUT = { ['wb:id'] = true, ['wb:group'] = true, ['wb:deliveries'] = true, ['wb:error'] = true }

-- What a letter says of its message, and the fields of the message.
local function parts(letter)
  local about, fields = {}, {}
  for i = 1, #letter, 2 do
    local name, value = letter[i], letter[i + 1]
    if ABOUT[name] then
      about[name] = value
    else
      fields[#fields + 1], fields[#fields + 2] = name, value
    end
  end
  return about, fields
end

local function replay(about, fields)
  local id, group = about['wb:id'], about['wb:group']
  if #redis.call('XRANGE', stream, id, id) > 0 then
    -- TIME 1: nobody has renewed it since 1970. FORCE: it is pending anew
    redis.call('XCLAIM', stream, group, returned, 0, id, 'TIME', 1, 'RETRYCOUNT', 0, 'FORCE', 'JUSTID')
  elseif #fields > 0 then
    redis.call('XADD', stream, '*', unpack(fields))
  else
    return false
  end
  return true
end

local answered = redis.call('GET', answer_key)
if answered then
  return answered -- our first send was applied and its reply was lost
end
local groups = {}
if redis.call('EXISTS', stream) == 1 then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do groups[group[2]] = true end
end

local replayed = {}
for i = FIRST, #ARGV do
  local id = ARGV[i]
  local letter = redis.call('XRANGE', dead, id, id)[1]
  if letter then
    local about, fields = parts(letter[2])
    if groups[about['wb:group']] and replay(about, fields) then
      redis.call('XDEL', dead, id)
      replayed[#replayed + 1] = id
    end
  end
end
local answer = table.concat(replayed, ' ')
redis.call('SET', answer_key, answer, 'EX', seconds)
return answer
