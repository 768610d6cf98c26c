-- What waiting clients are told: an id for each, with FS and the result behind it where that is small, joined by LS. One
-- message for each channel and call.
local answers, channels = {}, {}
local function answer(listening, id, result)
  if not listening or listening == '' then return end
  local text = result and #result <= ALONG and id .. FS .. result or id
  for _, channel in ipairs(split(listening, LS)) do
    local texts = answers[channel]
    if not texts then
      texts = {}
      answers[channel] = texts
      channels[#channels + 1] = channel
    end
    texts[#texts + 1] = text
  end
end

local function send_answers()
  for _, channel in ipairs(channels) do redis.call('PUBLISH', channel, table.concat(answers[channel], LS)) end
end
